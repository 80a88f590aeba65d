"""Wan 2.1 and 2.2 teachers of videos: WanTransformer3DModel in a diffusers WanPipeline, one network for all noise.

Wan 2.2 TI2V-5B gives its network a time a token, so that a picture may be the first frame. From text alone they are all
the same (`expand_timesteps` in its index), and one a video is what it is called with here: the same function.

Shapes: B batch, C latent channels, T, H, W latent size, F frames, L text tokens, D network width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import Conditioning, Part, PatchLayout
from piflow_cli.errors import DataError, ModelError
from piflow_cli.teachers.text.described import LATENT_FACTOR
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.tokens import BackboneClass, TextBackbone, block_targets, check_sides

MLP_TARGETS = ("ffn.net.0.proj", "ffn.net.2")
EMBEDDER = "condition_embedder.time_embedder"
TIME_TARGETS = (f"{EMBEDDER}.linear_1", f"{EMBEDDER}.linear_2")
TIME_SCALE = 1000
"""The network embeds 1000 sigma."""
FRAME_FACTOR = 4
"""Frames a latent one, after the first, in every autoencoder of Wan."""
WIDE_FACTOR, WIDE_CHANNELS = 16, 48
"""Of the autoencoder of Wan 2.2 TI2V-5B: pixels along the side of a latent position, and channels."""
ENCODER = Part("UMT5-XXL encoder", 5_680_910_336, True, "published")


class WanBackbone(TextBackbone):
    """How to call a WanTransformer3DModel, whatever its final projection is."""

    trained_modules = ()  # what modulates its end is one parameter of the whole module
    embedding_name = EMBEDDER
    layout = PatchLayout(sides=(1, 2, 2), channels_last=True)

    def embed_dim(self, module: nn.Module) -> int:
        """D."""
        return module.config.num_attention_heads * module.config.attention_head_dim

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Network output (B, channels, T, H, W) at x (B, C, T, H, W), sigma (B,)."""
        return module(
            hidden_states=x.to(module.dtype),
            timestep=sigma * TIME_SCALE,
            encoder_hidden_states=condition.embeds.to(module.dtype),
            return_dict=False,
        )[0]

    def embed(self, module: nn.Module, sigma: Tensor, condition: TextCondition) -> Tensor:  # noqa: ARG002
        """Time embedding (B, D)."""
        embedder = module.condition_embedder
        frequencies = embedder.timesteps_proj(sigma * TIME_SCALE)
        dtype = embedder.time_embedder.linear_1.weight.dtype  # float32 where the rest is not
        return embedder.time_embedder(frequencies.to(dtype)).to(module.dtype)

    def lora_targets(self, module: nn.Module) -> list[str]:
        """Ours, after those of FLUX.1: all MLPs and the time embedding."""
        return [*block_targets(module, "blocks", MLP_TARGETS), *TIME_TARGETS]


class WanSpace(TextSpace):
    """Embeddings of UMT5, zeros behind each prompt, and the latents of a causal autoencoder of videos."""

    @property
    def frames(self) -> int:
        """Of the settings."""
        return self.settings.frames

    @property
    def fps(self) -> int:
        """Of the settings."""
        return self.settings.fps

    @property
    def factor(self) -> int:
        """Pixels along the side of a latent position."""
        return self.pipeline.vae_scale_factor_spatial

    def latent_shape_of(self, width: int, height: int, frames: int | None = None) -> tuple[int, ...]:
        """(C, T, H, W) of videos of width x height pixels; a video of one frame is a picture.

        Raises:
            DataError: a side that latents and patches cannot make up, or frames that latents cannot.
        """
        frames = self.frames if frames is None else frames
        check_sides(width, height, factor=self.factor, steps=self.backbone.side_steps())
        check_frames(frames)
        return (
            self.backbone.latent_channels,
            latent_frames(frames),
            height // self.factor,
            width // self.factor,
        )

    def embed(
        self,
        prompts: list[str],
        *,
        length: int,
        others: Mapping[str, list[str]] = MappingProxyType({}),  # noqa: ARG002
    ) -> TextCondition:
        """Embeddings (B, L, D), the zeros behind a prompt included and attended to."""
        embeds, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False, max_sequence_length=length
        )
        return TextCondition(embeds=embeds)

    def base_arguments(self, condition: TextCondition) -> dict[str, Any]:
        """Embeddings."""
        return {"prompt_embeds": condition.embeds}

    def condition_of(self, arguments: Mapping[str, Any]) -> TextCondition:
        """Of the same."""
        return TextCondition(arguments["prompt_embeds"])

    def base_size(self, width: int, height: int, frames: int | None = None) -> dict[str, Any]:
        """Width, height and frames."""
        return {"width": width, "height": height, "num_frames": self.frames if frames is None else frames}

    def base_output(self, pictures: Any) -> Any:
        """Frames."""
        from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput

        return WanPipelineOutput(frames=pictures)

    def from_base_pictures(self, given: Tensor) -> Tensor:
        """Videos (B, 3, F, H, W), or pictures, of (B, F, 3, H, W)."""
        return _picture_where_one(given.float().transpose(1, 2))

    def decode(self, latents: Tensor) -> Tensor:
        """Videos (B, 3, F, H, W) in [0, 1], or of one frame pictures (B, 3, H, W), of latents (B, C, T, H, W)."""
        return _picture_where_one(super().decode(latents))

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Videos (B, 3, F, H, W) in [-1, 1] of latents (B, C, T, H, W)."""
        vae = self.pipeline.vae
        mean, deviation = self._statistics(latents)
        return vae.decode((latents * deviation + mean).to(vae.dtype), return_dict=False)[0]

    def to_latents(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Latents (B, C, T, H, W) of videos (B, 3, F, H, W) or pictures (B, 3, H, W) in [-1, 1]."""
        videos = pixels if pixels.ndim == 5 else pixels.unsqueeze(2)
        drawn = self.pipeline.vae.encode(videos).latent_dist.sample(generator).float()
        mean, deviation = self._statistics(drawn)
        return (drawn - mean) / deviation

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel of the autoencoder's latents, (C, 1, 1, 1) both."""
        config = self.pipeline.vae.config
        mean, deviation = (latents.new_tensor(values) for values in (config.latents_mean, config.latents_std))
        return mean.view(-1, 1, 1, 1), deviation.view(-1, 1, 1, 1)


def _picture_where_one(videos: Tensor) -> Tensor:
    """Videos (B, 3, F, H, W) as they are; pictures (B, 3, H, W) where they have one frame."""
    return videos.squeeze(2) if videos.shape[2] == 1 else videos


def latent_frames(frames: int) -> int:
    """T of videos of F frames: one, and one for every four that follow."""
    return 1 + (frames - 1) // FRAME_FACTOR


def check_frames(frames: int) -> None:
    """Raise DataError for frames that are not one and some times four."""
    if frames < 1 or (frames - 1) % FRAME_FACTOR:
        near = max(1, 1 + round((frames - 1) / FRAME_FACTOR) * FRAME_FACTOR)
        raise DataError(
            f"frames {frames} is not 1 more than a multiple of {FRAME_FACTOR}; the nearest one is {near} (the first "
            f"frame has a latent of its own, then {FRAME_FACTOR} share one)"
        )


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
        """Embeddings, padded with zeros that are attended to."""
        return Conditioning(text_tokens=self.max_sequence_length, text_width=module.config.text_dim, padded=True)

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
