"""The conditions and the latent space that a teacher shares with its students, and what prompts add to them.

Shapes: B batch, C latent channels, S spatial dims (H, W or T, H, W), F frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from piflow_cli.core.conditions import Prompt, References

Condition = Any
"""What a network is conditioned on, as its teacher family made it: labels (B,), or a dataclass of embeddings."""


class Space(Protocol):
    """The conditions and the latent space that a teacher and its students share."""

    latent_shape: tuple[int, ...]
    """(C, *S) at the size the model is for."""
    size_px: tuple[int, int]
    """Width and height of its pictures at that size."""
    frames: int
    """Frames of its videos at that size; 1 where it draws pictures."""
    fps: int
    """Frames a second of its videos; of no meaning for pictures."""
    device: torch.device
    image_channels: int
    """1 or 3."""
    num_classes: int | None
    """Classes without the null class; None where conditions are prompts."""
    max_tokens: int | None
    """Tokens a prompt is cut to; None where conditions are classes."""
    num_pictures: tuple[int, int]
    """The fewest and the most reference pictures that a prompt may have; (0, 0) for networks that take none."""
    classes_are_named: bool
    """Whether classes have names, and not only numbers."""
    embedded_guidance: bool
    """Whether the network embeds the guidance scale."""
    warnings: Sequence[str]
    """What a user should know of how it was loaded, such as rounded weights."""
    autoencoder: nn.Module | None
    """What makes pictures of latents; None where latents are pixels."""
    own_vae: nn.Module | None
    """The autoencoder that belongs into a student's folder; None where there is none, or where the base keeps it."""

    def latent_shape_of(self, width: int, height: int, frames: int | None = None) -> tuple[int, ...]:
        """(C, *S) of pictures of width x height pixels, or of videos; DataError where there are none of that size.

        Args:
            frames: None is as many as the settings say.
        """
        ...

    def identity(self) -> tuple[str, tuple[object, ...]]:
        """What decides the noise and the conditions, in words and in values: students of equal ones can be compared."""
        ...

    def find_class(self, name: str) -> int | None:
        """The class of a name or a number; None where there is none."""
        ...

    def examples(self, count: int) -> list[str]:
        """Up to `count` prompts that the model can be asked for: names of classes, spread evenly over all."""
        ...

    def dropped_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt beyond what the encoder takes."""
        ...

    def unknown_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt that stand for what the encoder has no token for, such as another script."""
        ...

    def encode_images(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C, *S) of pictures (B, 1 or 3, H, W), or of videos (B, 3, F, H, W), in [0, 1]."""
        ...

    def encode_prompts(self, prompts: Sequence[Prompt]) -> Condition:
        """The condition of a batch of prompts; for class models a prompt is a class name or index.

        Raises:
            DataError: reference pictures that the network does not take, or no class of such a name.
        """
        ...

    def conditions(self, drawn: Condition) -> Condition:
        """What a data source drew, as the network takes it."""
        ...

    def encoded(self, drawn: Sequence[Condition]) -> list[Condition]:
        """What a data source drew for several batches, each for `conditions`; prompts are encoded, all at one go."""
        ...

    def preview_conditions(self, count: int) -> Condition:
        """Conditions that show what the model can do."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 1 or 3, H, W), or videos of F > 1 frames (B, 3, F, H, W), in [0, 1] of latents (B, C, *S)."""
        ...


class PromptSpace(Space, Protocol):
    """A space that stands on a diffusers pipeline whose encoders and autoencoder it uses."""

    pipeline: Any
    """Of the base's class; its transformer may be None."""
    base_class: type
    """The base's own class of diffusers."""
    embedding_arguments: Sequence[str]
    """Arguments of the base's own pipeline that take embeddings of prompts."""
    settings: Any
    """The family's settings: size, lengths, guidance, and where the base is."""
    factor: int
    """Pixels along the side of a latent position."""

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

    def embed_about(
        self,
        prompts: list[str],
        pictures: Sequence[Sequence[Any]],
        *,
        length: int,
        others: Mapping[str, list[str]] = ...,
    ) -> Condition:
        """As `embed`, with the reference pictures (of PIL) of each prompt; DataError for such as are not taken."""
        ...

    def references(self, pictures: Sequence[Sequence[Any]]) -> References | None:
        """The reference pictures of each prompt, encoded; None where there are none."""
        ...

    def check_reference(self, picture: Any) -> None:
        """Raise DataError where a reference picture (of PIL) is not taken, saying why."""
        ...

    def size_about(self, pictures: Sequence[Any]) -> tuple[int, int]:
        """Width and height of what the base's own pipeline makes of reference pictures where nobody says it."""
        ...

    def null_condition(self, count: int) -> Condition:
        """The condition of the negative prompt, `count` times."""
        ...

    def set_null_condition(self, condition: Condition) -> None:
        """Give the condition of the negative prompt, one row, where it was encoded before."""
        ...

    def base_arguments(self, condition: Condition) -> dict[str, Any]:
        """A condition as arguments of the base's own pipeline; those of a negative one are called negative_ and so."""
        ...

    def condition_of(self, arguments: Mapping[str, Any]) -> Condition:
        """The inverse: a condition, without guidance, of embeddings that are given by the base's arguments.

        Raises:
            ValueError: embeddings that belong together and are not all there.
        """
        ...

    def base_output(self, pictures: Any) -> Any:
        """What the base's own pipeline returns pictures, or videos, in."""
        ...

    def base_guidance(self, scale: float) -> dict[str, Any]:
        """The arguments of the base's own pipeline that ask for a guidance scale in the words of this project."""
        ...

    def base_result(self, latents: Tensor) -> Tensor:
        """Latents (B, C, *S) as the base's own pipeline returns them with output_type "latent"."""
        ...

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), or videos (B, 3, F, H, W), in [-1, 1], not clamped, of latents (B, C, *S)."""
        ...
