"""FLUX.1 teachers: FluxTransformer2DModel in a diffusers FluxPipeline.

Shapes: B batch, N image tokens, T text tokens, C latent channels, H, W latent size, D network width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import CacheCase, Conditioning, MemoryCase, Part
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.prompts import together
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.tokens import BackboneClass, TokenBackbone, block_targets, pack, unpack

DOUBLE_TARGETS = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
SINGLE_TARGETS = ("proj_mlp", "proj_out")
TIME_TARGETS = ("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2")
PATCH = 2
SIZES_KEPT = 16
"""Sizes whose position ids are kept on a device."""
TIME_SCALE = 1000
"""The network embeds 1000 sigma, and 1000 times the guidance scale."""


class FluxBackbone(TokenBackbone):
    """How to call a FluxTransformer2DModel, whatever its final projection is."""

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Network output (B, channels, H, W) at x (B, C, H, W), sigma (B,)."""
        height, width = x.shape[-2:]
        tokens = module(
            hidden_states=pack(x.to(module.dtype)),  # (B, N, 4 C)
            encoder_hidden_states=condition.embeds.to(module.dtype),
            pooled_projections=condition.pooled.to(module.dtype),
            timestep=sigma,
            guidance=condition.guidance,
            img_ids=_image_ids(height // PATCH, width // PATCH, x.device),
            txt_ids=_text_ids(condition.embeds.shape[1], x.device),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def embed(self, module: nn.Module, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Time, guidance and pooled text embedding (B, D)."""
        scaled = [sigma.to(module.dtype) * TIME_SCALE]
        if condition.guidance is not None:
            scaled.append(condition.guidance.to(module.dtype) * TIME_SCALE)
        return module.time_text_embed(*scaled, condition.pooled.to(module.dtype))

    def lora_targets(self, module: nn.Module) -> list[str]:
        """The published targets: the MLPs of all blocks and the time embedding."""
        double = block_targets(module, "transformer_blocks", DOUBLE_TARGETS)
        return [*double, *block_targets(module, "single_transformer_blocks", SINGLE_TARGETS), *TIME_TARGETS]


@lru_cache(maxsize=SIZES_KEPT)
def _image_ids(rows: int, columns: int, device: torch.device) -> Tensor:
    """Position ids (N, 3) as the pipeline makes them."""
    from diffusers import FluxPipeline

    with torch.inference_mode(False):  # kept for calls that record a graph
        return FluxPipeline._prepare_latent_image_ids(1, rows, columns, device, torch.float32)


@lru_cache(maxsize=SIZES_KEPT)
def _text_ids(length: int, device: torch.device) -> Tensor:
    """Position ids (T, 3): text has no place."""
    with torch.inference_mode(False):
        return torch.zeros(length, 3, device=device)


class FluxSpace(TextSpace):
    """T5 embeddings, CLIP's pooled embedding, and AutoencoderKL latents with a scale and a shift."""

    embedding_arguments: ClassVar[tuple[str, ...]] = ("prompt_embeds", "pooled_prompt_embeds")

    def embed(
        self, prompts: list[str], *, length: int, others: Mapping[str, list[str]] = MappingProxyType({})
    ) -> TextCondition:
        """Embeddings (B, T, D), padding included and unmasked, and (B, P)."""
        embeds, pooled, _ = self.pipeline.encode_prompt(
            prompts, others.get("prompt_2"), device=self.device, max_sequence_length=length
        )
        return TextCondition(embeds=embeds, pooled=pooled)

    def base_arguments(self, condition: TextCondition) -> dict[str, Any]:
        """Embeddings and pooled embeddings."""
        return {"prompt_embeds": condition.embeds, "pooled_prompt_embeds": condition.pooled}

    def condition_of(self, arguments: Mapping[str, Any]) -> TextCondition:
        """Of both."""
        embeds, pooled = together(arguments, *self.embedding_arguments)
        return TextCondition(embeds, pooled=pooled)

    def base_guidance(self, scale: float) -> dict[str, Any]:
        """The scale that the network embeds, or that of two passes."""
        if self.embedded_guidance:
            return {"guidance_scale": self.settings.guidance_scale}
        return {"true_cfg_scale": scale}


class Flux(TextFamily):
    """A FLUX.1 pipeline."""

    type: Literal["flux"] = "flux"
    source: str = Field("black-forest-labs/FLUX.1-dev", description="pipeline's folder or hub id, or zoo:NAME")
    guidance_scale: float = Field(
        3.5, ge=0, le=100, description="embedded where the network takes it, else by two passes"
    )

    pipeline_classes: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    transformer_class: ClassVar[str] = "FluxTransformer2DModel"
    backbone_class: ClassVar[BackboneClass] = FluxBackbone
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    space_class: ClassVar[Callable[..., TextSpace]] = FluxSpace
    architectures: ClassVar[dict[str, dict[str, Any]]] = {
        "FLUX.1-dev": {"guidance_embeds": True},
        "FLUX.1-schnell": {"guidance_embeds": False},
    }
    published_parts: ClassVar[tuple[Part, ...]] = (
        Part("T5-XXL encoder", 4_762_310_656, True, "published"),
        Part("CLIP-L text encoder", 123_060_480, True, "published"),
        Part("autoencoder", 83_819_683, False, "published"),
    )
    measured_cases: ClassVar[dict[str, tuple[MemoryCase | CacheCase, ...]]] = {
        "FLUX.1-dev": (
            MemoryCase("DDP", 32, 8, 65_000_000_000),
            MemoryCase("DDP", 32, 1, 45_000_000_000),
            MemoryCase("FSDP2", 8, 1, 16_000_000_000),
            MemoryCase("FSDP2", 2, 1, 24_000_000_000),
            CacheCase(768_128, 1_100_000_000_000),
        )
    }

    def conditioning(self, module: nn.Module) -> Conditioning:
        """T5 embeddings, padded and attended to, CLIP's pooled embedding, and guidance where the config has it."""
        config = module.config
        return Conditioning(
            text_tokens=self.max_sequence_length,
            text_width=config.joint_attention_dim,
            pooled_width=config.pooled_projection_dim,
            padded=True,
            embeds_guidance=bool(config.guidance_embeds),
        )

    def base_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """A config with the base's own output."""
        return config | {"patch_size": 1, "out_channels": None}

    def latent_channels(self, config: dict[str, Any]) -> int:
        """C."""
        return config["in_channels"] // PATCH**2
