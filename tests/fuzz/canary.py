"""A canary: whatever runs code out of a file makes it sing."""

from __future__ import annotations

from typing import Any

SUNG: list[str] = []


def sing(*words: Any) -> dict[str, Any]:
    """Be heard."""
    SUNG.append(" ".join(map(str, words)) or "sung")
    return {}


class Egg:
    """What a pickle of it runs when it is opened."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return sing, ("unpickled",)
