"""What a space of prompts offers beyond any space: to a pipeline of the base's class, and to who checks a teacher.

Shapes: B batch, C latent channels, S spatial dims (H, W or T, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from piflow_cli.core.interfaces.teachers import Condition, Space


class PromptSpace(Space, Protocol):
    """A space that stands on a diffusers pipeline whose encoders and autoencoder it uses."""

    pipeline: Any
    """Of the base's class; its transformer may be None."""
    settings: Any
    """The family's settings: size, lengths, guidance, and where the base is."""

    def prompt_lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt if none were cut off, special ones included."""
        ...

    def embed(self, prompts: list[str], *, length: int, others: Mapping[str, list[str]] = ...) -> Condition:
        """Embeddings of prompts as the base's own pipeline makes them, without guidance.

        Args:
            prompts: B texts.
            length: tokens a prompt is cut to.
            others: B texts for each further argument of the base's call that takes prompts, such as prompt_2.
        """
        ...

    def null_condition(self, count: int) -> Condition:
        """The condition of the negative prompt, `count` times."""
        ...

    def set_null_condition(self, condition: Condition) -> None:
        """Give the condition of the negative prompt, one row, where it was encoded before."""
        ...

    def base_result(self, latents: Tensor) -> Tensor:
        """Latents (B, C, *S) as the base's own pipeline returns them with output_type "latent"."""
        ...

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], not clamped, of latents (B, C, *S)."""
        ...
