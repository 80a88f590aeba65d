"""Results as JSON that every reader takes."""

import json
import math
from typing import Any


def json_text(value: object) -> str:
    """A value as JSON in ASCII: numbers that are not finite, which JSON does not have, are null; paths are texts."""
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
