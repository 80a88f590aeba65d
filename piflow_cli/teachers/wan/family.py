"""Wan 2.1 and 2.2 teachers of videos: WanTransformer3DModel in a diffusers WanPipeline, one network for all noise.

Shapes: S spatial dims (T, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from piflow_cli.core.interfaces import Conditioning, Part
from piflow_cli.errors import ModelError
from piflow_cli.teachers.text.described import LATENT_FACTOR
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.tokens import BackboneClass
from piflow_cli.teachers.wan.backbone import WanBackbone
from piflow_cli.teachers.wan.frames import FRAME_FACTOR, check_frames, latent_frames
from piflow_cli.teachers.wan.space import WanSpace

WIDE_FACTOR, WIDE_CHANNELS = 16, 48
"""Of the autoencoder of Wan 2.2 TI2V-5B: pixels along the side of a latent position, and channels."""
ENCODER = Part("UMT5-XXL encoder", 5_680_910_336, True, "published")


class Wan(TextFamily):
    """A Wan pipeline from text to video: 2.1, or 2.2 with one network."""

    type: Literal["wan"] = "wan"
    source: str = Field("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", description="pipeline's folder or hub id")
    guidance_scale: float = Field(5.0, ge=0, le=100, description="by two passes, with the negative prompt")
    width: int = Field(832, ge=16, le=16_384, description="pixels")
    height: int = Field(480, ge=16, le=16_384, description="pixels")
    frames: int = Field(81, ge=1, le=1025, description="of a video, 1 more than a multiple of 4; 1 is a picture")
    fps: int = Field(16, ge=1, le=120, description="frames a second that the model was trained on, for its files")

    pipeline_classes: ClassVar[tuple[str, ...]] = ("WanPipeline",)
    transformer_class: ClassVar[str] = "WanTransformer3DModel"
    backbone_class: ClassVar[BackboneClass] = WanBackbone
    space_class: ClassVar[Callable[..., TextSpace]] = WanSpace
    architectures: ClassVar[dict[str, dict[str, Any]]] = {
        "Wan2.1-1.3B": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "text_dim": 4096},
        "Wan2.1-14B": {"text_dim": 4096},
        "Wan2.2-TI2V-5B": {
            "num_attention_heads": 24,
            "ffn_dim": 14336,
            "num_layers": 30,
            "text_dim": 4096,
            "in_channels": WIDE_CHANNELS,
            "out_channels": WIDE_CHANNELS,
        },
    }

    @property
    def published_parts(self) -> tuple[Part, ...]:
        """The text encoder, and the autoencoder of the transformer's channels."""
        wide = self.describe()[0].config.in_channels == WIDE_CHANNELS
        size = 704_688_668 if wide else 126_892_531
        return (ENCODER, Part("autoencoder", size, False, "published"))

    @property
    def num_frames(self) -> int:
        """Of the settings."""
        return self.frames

    @property
    def frame_rate(self) -> int:
        """Of the settings."""
        return self.fps

    @property
    def frame_factor(self) -> int:
        """Four."""
        return FRAME_FACTOR

    @property
    def published_factor(self) -> int:
        """Of the architecture's autoencoder."""
        named = self.architectures.get(self.architecture or "", {})
        return WIDE_FACTOR if named.get("in_channels") == WIDE_CHANNELS else LATENT_FACTOR

    def check_index(self, index: dict[str, Any]) -> None:
        """Raise ModelError for a pipeline of two networks."""
        if index.get("transformer_2", [None, None]) != [None, None]:
            raise ModelError(
                f"{self.source} has two networks, transformer for the high noise levels and transformer_2 for the low "
                f"ones (boundary_ratio {index.get('boundary_ratio')}). A student is one network on one base, and would "
                "imitate half of this teacher. Take one of a single network: Wan-AI/Wan2.1-T2V-1.3B-Diffusers, "
                "Wan-AI/Wan2.1-T2V-14B-Diffusers or Wan-AI/Wan2.2-TI2V-5B-Diffusers"
            )

    def check_network(self, network: dict[str, Any], *, origin: object) -> None:
        """Raise ModelError unless a student's description of its module is one of this family."""
        super().check_network(network, origin=origin)
        self._check_kind(network["config"], origin=origin)

    def backbone(self, config: dict[str, Any]) -> WanBackbone:
        """How to call a transformer of this config."""
        return WanBackbone(latent_channels=self.latent_channels(config), text_tokens=self.max_sequence_length)

    def build(self, config: dict[str, Any]) -> nn.Module:
        """The transformer of a config on the meta device; its buffers are real."""
        self._check_kind(config, origin=f"the transformer's config of {self.source}")
        return super().build(config)

    def _check_kind(self, config: dict[str, Any], *, origin: object) -> None:
        sides = tuple(config.get("patch_size", WanBackbone.layout.sides))
        if sides != WanBackbone.layout.sides:
            raise ModelError(f"{origin} has patches of {sides}; this family knows those of {WanBackbone.layout.sides}")
        taken, given = config.get("in_channels", 16), config.get("out_channels", 16)
        if taken != given:
            raise ModelError(
                f"{origin} takes {taken} channels and gives {given}: it goes on from a picture, and this family is "
                "from text alone"
            )

    def conditioning(self, module: nn.Module) -> Conditioning:
        """Embeddings as long as their prompt; the zeros behind it are added where the network is called."""
        return Conditioning(text_tokens=self.max_sequence_length, text_width=module.config.text_dim)

    def latent_channels(self, config: dict[str, Any]) -> int:
        """C."""
        return config["in_channels"]

    def latent_size(self, module: nn.Module, size_px: tuple[int, int] | None) -> tuple[int, ...]:
        """S, in latent positions, of videos of `size_px` (width, height) and the settings' frames."""
        return (latent_frames(self.frames), *super().latent_size(module, size_px))

    def check_size(self, width: int, height: int, frames: int | None = None) -> None:
        """Raise DataError for a size that latents and patches cannot make up, by the autoencoder's config."""
        super().check_size(width, height)
        check_frames(self.frames if frames is None else frames)

    def halvings(self, autoencoder: dict[str, Any]) -> int:
        """How many times an autoencoder of this config halves a picture's sides."""
        return int(math.log2(autoencoder.get("scale_factor_spatial") or 8))
