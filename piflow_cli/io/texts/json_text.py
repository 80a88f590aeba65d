"""Results as JSON that every reader takes, and how two trees of JSON differ."""

import json
import math
from typing import Any


def json_text(value: object) -> str:
    """A value as JSON in ASCII: numbers that are not finite, which JSON does not have, are null; paths are texts."""
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False)


def differences(a: object, b: object, prefix: str = "") -> list[tuple[str, object, object]]:
    """Leaves in which two JSON trees differ, with their key paths."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        return [d for key in keys for d in differences(a.get(key), b.get(key), f"{prefix}{key}.")]
    return [] if a == b else [(prefix.removesuffix("."), a, b)]


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
