"""Prompts that any model can be asked for, and embeddings of prompts that are given together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREVIEW_PROMPTS = (
    "a cat",
    "a portrait photo of an old fisherman at sunset",
    "a red apple on a wooden table",
    "a watercolour painting of a mountain lake",
    "a shop window with a sign that says open",
    "a fox in the snow, 3d render",
    "an astronaut riding a horse",
    "a bowl of ramen, top view",
)


def together(arguments: Mapping[str, Any], *names: str) -> list[Any]:
    """Arguments that are given together. Raises ValueError where some are and others are not."""
    if missing := [name for name in names if arguments.get(name) is None]:
        given = [name for name in names if name not in missing]
        raise ValueError(f"{' and '.join(given) or 'embeddings'} need {' and '.join(missing)} too")
    return [arguments[name] for name in names]
