"""A base's own pipeline in the words of this project: what its call takes, and what it returns.

Shapes: B batch, C latent channels, S spatial dims, F frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.teachers.text.tokens import TextBackbone


class BaseCalls(ABC):
    """What a family says of its base's pipeline; `backbone` says how its latents lie."""

    backbone: TextBackbone

    @abstractmethod
    def base_arguments(self, condition: TextCondition) -> dict[str, Any]:
        """A condition as arguments of the base's own pipeline; those of a negative one are called negative_ and so."""

    @abstractmethod
    def condition_of(self, arguments: Mapping[str, Any]) -> TextCondition:
        """The inverse: a condition of embeddings that are given by the base's arguments.

        Raises:
            ValueError: embeddings that belong together and are not all there.
        """

    def base_size(self, width: int, height: int, frames: int | None = None) -> dict[str, Any]:  # noqa: ARG002
        """The arguments of the base's own pipeline that ask for pictures of a size."""
        return {"width": width, "height": height}

    def base_output(self, pictures: Any) -> Any:
        """What the base's own pipeline returns pictures in."""
        from diffusers import ImagePipelineOutput

        return ImagePipelineOutput(images=pictures)

    def base_guidance(self, scale: float) -> dict[str, Any]:
        """The arguments of the base's own pipeline that ask for guidance u_n + scale (u_c - u_n)."""
        return {"guidance_scale": scale}

    def from_base_pictures(self, given: Tensor) -> Tensor:
        """Pictures as `decode` gives them, of those that the base's own pipeline makes with output_type "pt"."""
        return given.float()

    def base_result(self, latents: Tensor) -> Tensor:
        """Latents (B, C, *S) as the base's own pipeline returns them with output_type "latent"."""
        return self.backbone.to_base(latents)
