"""Qwen-Image teachers: QwenImageTransformer2DModel in a diffusers QwenImagePipeline.

Shapes: B batch, N image tokens, T text tokens, C latent channels, H, W latent size, D network width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import CacheCase, Conditioning, MemoryCase, Part
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.tokens import BackboneClass, TokenBackbone, block_targets, pack, unpack

PATCH = 2
IMAGE_TARGETS, TEXT_TARGETS = ("img_mlp.net.0.proj", "img_mlp.net.2"), ("txt_mlp.net.0.proj", "txt_mlp.net.2")
TIME_TARGETS = ("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2")


class QwenImageBackbone(TokenBackbone):
    """How to call a QwenImageTransformer2DModel, whatever its final projection is."""

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Network output (B, channels, H, W) at x (B, C, H, W), sigma (B,)."""
        height, width = x.shape[-2:]
        tokens = module(
            hidden_states=pack(x.to(module.dtype)),  # (B, N, 4 C)
            encoder_hidden_states=condition.embeds.to(module.dtype),
            encoder_hidden_states_mask=condition.mask,
            timestep=sigma,
            img_shapes=[[(1, height // PATCH, width // PATCH)]] * len(x),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def embed(self, module: nn.Module, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Time embedding (B, D)."""
        sigma = sigma.to(module.dtype)
        return module.time_text_embed(sigma, condition.embeds.to(module.dtype))  # only the dtype of the latter is read

    def lora_targets(self, module: nn.Module) -> list[str]:
        """The published targets: the MLPs of all blocks and the time embedding.

        The text MLP of the last block is none of them: nothing reads what it gives.
        """
        read = len(module.transformer_blocks) - 1
        image = block_targets(module, "transformer_blocks", IMAGE_TARGETS)
        return [*image, *block_targets(module, "transformer_blocks", TEXT_TARGETS, count=read), *TIME_TARGETS]


class OneFrameSpace(TextSpace):
    """Latents of pictures by an autoencoder of videos, whose config says their mean and standard deviation."""

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, (1, C, 1, 1, 1) both."""
        config = self.pipeline.vae.config
        mean, std = (torch.tensor(v, device=device) for v in (config.latents_mean, config.latents_std))
        return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], not clamped, of latents (B, C, H, W)."""
        mean, std = self._statistics(latents.device)
        scaled = latents.unsqueeze(2) * std + mean  # (B, C, 1, H, W)
        vae = self.pipeline.vae
        return vae.decode(scaled.to(vae.dtype), return_dict=False)[0][:, :, 0]

    def to_latents(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Latents (B, C, H, W) of pictures (B, 3, H, W) in [-1, 1]."""
        mean, std = self._statistics(pixels.device)
        posterior = self.pipeline.vae.encode(pixels.unsqueeze(2)).latent_dist
        return ((posterior.sample(generator).float() - mean) / std)[:, :, 0]


class QwenImageSpace(OneFrameSpace):
    """Embeddings of a vision-language model under the pipeline's template, and latents of a video autoencoder."""

    embedding_arguments: ClassVar[tuple[str, ...]] = ("prompt_embeds", "prompt_embeds_mask")

    def embed(
        self,
        prompts: list[str],
        *,
        length: int,
        others: Mapping[str, list[str]] = MappingProxyType({}),  # noqa: ARG002
    ) -> TextCondition:
        """Embeddings (B, T, D) with their mask (B, T), None where no prompt is padded."""
        embeds, mask = self.pipeline.encode_prompt(prompts, device=self.device, max_sequence_length=length)
        return TextCondition(embeds=embeds, mask=mask.bool() if mask is not None else None)

    def prompt_lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of the filled template without its system part."""
        pipeline = self.pipeline
        texts = [pipeline.prompt_template_encode.format(prompt) for prompt in prompts]
        return [len(ids) - pipeline.prompt_template_encode_start_idx for ids in pipeline.tokenizer(texts).input_ids]

    def base_arguments(self, condition: TextCondition) -> dict[str, Any]:
        """Embeddings and their mask."""
        return {"prompt_embeds": condition.embeds, "prompt_embeds_mask": condition.mask}

    def condition_of(self, arguments: Mapping[str, Any]) -> TextCondition:
        """Of both."""
        return TextCondition(arguments["prompt_embeds"], mask=arguments.get("prompt_embeds_mask"))

    def base_guidance(self, scale: float) -> dict[str, Any]:
        """The scale of two passes."""
        return {"true_cfg_scale": scale}


class QwenImage(TextFamily):
    """A Qwen-Image pipeline."""

    type: Literal["qwen_image"] = "qwen_image"
    source: str = Field("Qwen/Qwen-Image", description="pipeline's folder or hub id")
    guidance_scale: float = Field(4.0, ge=0, le=100, description="by two passes, with the negative prompt")

    base_normalizes: ClassVar[bool] = True
    pipeline_classes: ClassVar[tuple[str, ...]] = ("QwenImagePipeline",)
    transformer_class: ClassVar[str] = "QwenImageTransformer2DModel"
    backbone_class: ClassVar[BackboneClass] = QwenImageBackbone
    space_class: ClassVar[Callable[..., TextSpace]] = QwenImageSpace
    architectures: ClassVar[dict[str, dict[str, Any]]] = {"Qwen-Image": {}}
    published_parts: ClassVar[tuple[Part, ...]] = (
        Part("Qwen2.5-VL", 8_292_166_656, True, "published"),
        Part("autoencoder", 126_892_531, False, "published"),
    )
    measured_cases: ClassVar[dict[str, tuple[MemoryCase | CacheCase, ...]]] = {
        "Qwen-Image": (
            MemoryCase("DDP", 32, 4, 70_000_000_000),
            MemoryCase("FSDP2", 8, 1, 20_000_000_000),
            CacheCase(2_304_128, 380_000_000_000),
        )
    }

    def conditioning(self, module: nn.Module) -> Conditioning:
        """Embeddings as long as their prompt."""
        return Conditioning(text_tokens=self.max_sequence_length, text_width=module.config.joint_attention_dim)

    def halvings(self, autoencoder: dict[str, Any]) -> int:
        """As many as it says of its levels in time."""
        return len(autoencoder["temperal_downsample"])

    def base_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """A config with the base's own output."""
        return config | {"patch_size": PATCH, "out_channels": config["in_channels"] // PATCH**2}

    def released_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config with its output counted per token: the authors' patches have size 1."""
        return config | {"patch_size": 1, "out_channels": config["in_channels"]}

    def latent_channels(self, config: dict[str, Any]) -> int:
        """C."""
        return config["in_channels"] // PATCH**2
