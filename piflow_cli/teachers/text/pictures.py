"""Reference pictures of prompts: how many there may be, and their latents as tokens beside those of the target.

Shapes: B batch, R tokens of reference pictures, C latent channels, H, W latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from piflow_cli.core.conditions import Instruction, Prompt, References
from piflow_cli.errors import DataError
from piflow_cli.teachers.text.tokens import TextBackbone

if TYPE_CHECKING:
    from PIL.Image import Image


def pictures_of(prompts: Sequence[Prompt]) -> list[tuple[Image, ...]]:
    """The reference pictures of each prompt."""
    return [prompt.pictures if isinstance(prompt, Instruction) else () for prompt in prompts]


def check_number(allowed: tuple[int, int], pictures: Sequence[Sequence[Image]], *, name: str) -> None:
    """Raise DataError where a prompt has more or fewer pictures than `allowed`, the fewest and the most."""
    fewest, most = allowed
    for found in pictures:
        if not fewest <= len(found) <= most:
            wanted = f"{fewest} to {most} reference pictures" if fewest < most else f"{most} reference pictures"
            raise DataError(f"{name} takes {wanted} of a prompt, and one has {len(found)}")


def check_taken(prompts: Sequence[Prompt], check: Callable[[Image], object]) -> None:
    """Raise DataError where a reference picture of a prompt is not taken, naming it and the prompt.

    Args:
        check: raises DataError of a picture, saying why.
    """
    for prompt, pictures in zip(prompts, pictures_of(prompts), strict=True):
        names = prompt.names if isinstance(prompt, Instruction) else ()
        for number, picture in enumerate(pictures, 1):
            try:
                check(picture)
            except DataError as error:
                named = names[number - 1] if len(names) == len(pictures) else f"number {number}"
                raise DataError(
                    f"the reference picture {named} of the prompt {str(prompt)[:40]!r} is not taken: {error}"
                ) from None


def references_of(
    pictures: Sequence[Sequence[Image]], *, encode: Callable[[Image], Tensor], backbone: TextBackbone
) -> References | None:
    """The reference pictures of each of B prompts as tokens (B, R, C), each picture encoded once; None without any.

    Args:
        encode: a picture to latents (1, C, H, W).
        backbone: whose tokens they are.
    """
    if not any(pictures):
        return None
    known = {id(picture): encode(picture) for row in pictures for picture in row}  # each (1, C, H, W)
    *_, down, across = backbone.layout.sides
    rows = [[known[id(picture)] for picture in row] for row in pictures]
    packed = [[backbone.to_base(latents)[0] for latents in row] for row in rows]  # each (R_i, C)
    none = next(tokens for row in packed for tokens in row)[:0]
    return References(
        tokens=torch.nn.utils.rnn.pad_sequence([torch.cat([none, *row]) for row in packed], batch_first=True),
        sizes=tuple(tuple((x.shape[-2] // down, x.shape[-1] // across) for x in row) for row in rows),
    )
