"""Prompts, and what else a call takes one of a picture: in one form, and as many of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Prompts = str | Sequence[str] | None
"""One, one of each picture, or none."""


def as_list(prompt: Prompts, count: int | None = None) -> list[str] | None:
    """A prompt, or one for each of `count`, as a list."""
    return [prompt] * (count or 1) if isinstance(prompt, str) else None if prompt is None else list(prompt)


def matched(**prompts: Prompts) -> list[Prompts]:
    """Prompts that belong together: as they are where all are single, else lists of one length.

    Args:
        prompts: by the names of the arguments; a single one among lists serves every picture.

    Raises:
        ValueError: lists of unequal length, an empty one, or something that is no text in one.
    """
    listed = {name: _texts(name, value) for name, value in prompts.items() if _is_several(value)}
    lengths = {name: len(texts) for name, texts in listed.items()}
    if len(set(lengths.values())) > 1:
        counted = " and ".join(f"{length} in {name}" for name, length in lengths.items())
        raise ValueError(f"there are {counted}; pass as many of each, or one text for all")
    if not listed:
        return list(prompts.values())
    count = next(iter(lengths.values()))
    single = {name: as_list(value, count) if isinstance(value, str) else value for name, value in prompts.items()}
    return [listed.get(name, value) for name, value in single.items()]


def as_tensor(value: Any, name: str) -> Tensor | None:
    """A tensor argument, from numpy where it is an array.

    Raises:
        ValueError: neither.
    """
    if value is None or isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is a {type(value).__name__}; pass a tensor") from None


def one_batch(**parts: Tensor | None) -> None:
    """Raise ValueError where embeddings that belong together are of unequal numbers of prompts."""
    lengths = {name: len(part) for name, part in parts.items() if part is not None}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{name} of {length}" for name, length in lengths.items())
        raise ValueError(f"embeddings are of unequal numbers of prompts: {counted}")


def _is_several(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _texts(name: str, value: Sequence[Any]) -> list[str]:
    texts = list(value)
    if not texts:
        raise ValueError(f"{name} is empty; pass a text, or one of each picture")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{i}] is a {type(text).__name__}; prompts are text")
    return [str(text) for text in texts]
