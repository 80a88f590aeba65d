"""FLUX.2 teachers: Flux2Transformer2DModel in a diffusers Flux2Pipeline (dev) or Flux2KleinPipeline (klein base)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from piflow_cli.core.interfaces import Conditioning, Part
from piflow_cli.core.schedule import Shift
from piflow_cli.errors import ModelError
from piflow_cli.teachers.flux2.backbone import PATCH, Flux2Backbone
from piflow_cli.teachers.flux2.space import DEV, KLEIN, NUM_PICTURES, Flux2Space
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.tokens import BackboneClass

PUBLISHED_PARTS = {
    7680: Part("Qwen3-4B", 4_022_468_096, True, "published"),
    12288: Part("Qwen3-8B", 8_190_735_360, True, "published"),
    15360: Part("Mistral Small 3.2", 24_011_361_280, True, "published"),
    None: Part("autoencoder", 84_046_115, False, "published"),
}
"""Encoders by the width of the embeddings that they give."""


class Flux2(TextFamily):
    """A FLUX.2 pipeline: klein base or dev."""

    type: Literal["flux2"] = "flux2"
    source: str = Field("black-forest-labs/FLUX.2-klein-base-4B", description="pipeline's folder or hub id")
    guidance_scale: float = Field(
        4.0, ge=0, le=100, description="embedded where the network takes it (dev), else by two passes (klein base)"
    )

    num_pictures: ClassVar[tuple[int, int]] = NUM_PICTURES
    pipeline_classes: ClassVar[tuple[str, ...]] = (KLEIN, DEV)
    transformer_class: ClassVar[str] = "Flux2Transformer2DModel"
    backbone_class: ClassVar[BackboneClass] = Flux2Backbone
    space_class: ClassVar[Callable[..., TextSpace]] = Flux2Space
    architectures: ClassVar[dict[str, dict[str, Any]]] = {
        "FLUX.2-klein-base-4B": {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
        "FLUX.2-klein-base-9B": {
            "num_layers": 8,
            "num_single_layers": 24,
            "num_attention_heads": 32,
            "joint_attention_dim": 12288,
            "guidance_embeds": False,
        },
        "FLUX.2-dev": {"guidance_embeds": True},
    }

    @property
    def published_parts(self) -> tuple[Part, ...]:
        """The language model whose embeddings the transformer takes, and the autoencoder."""
        width = self.describe()[0].config.joint_attention_dim
        return tuple(part for key, part in PUBLISHED_PARTS.items() if key in (width, None))

    def own_shift(self, scheduler: Mapping[str, Any], positions: int, *, num_steps: int) -> Shift:
        """As every family's, but a dynamic shift goes by the number of steps too, as the pipelines reckon it."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        shift = super().own_shift(scheduler, positions, num_steps=num_steps)
        if not scheduler.get("use_dynamic_shifting"):
            return shift
        mu = compute_empirical_mu(positions, num_steps)
        return Shift(mu if scheduler.get("time_shift_type") == "linear" else math.exp(mu))

    def check_index(self, index: dict[str, Any]) -> None:
        """Raise ModelError for a klein that was distilled to few steps."""
        if index.get("is_distilled"):
            raise ModelError(
                f"{self.source} is no teacher: it was distilled to a few steps itself (is_distilled). Take its base, "
                "such as black-forest-labs/FLUX.2-klein-base-4B"
            )

    def conditioning(self, module: nn.Module) -> Conditioning:
        """Embeddings, padded and attended to, and guidance where the config has it."""
        return Conditioning(
            text_tokens=self.max_sequence_length,
            text_width=module.config.joint_attention_dim,
            padded=True,
            embeds_guidance=bool(module.config.guidance_embeds),
        )

    def base_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """A config with the base's own output."""
        return config | {"patch_size": 1, "out_channels": None}

    def latent_channels(self, config: dict[str, Any]) -> int:
        """C."""
        return config["in_channels"] // PATCH**2
