"""FLUX.2 teachers: Flux2Transformer2DModel in a diffusers Flux2Pipeline (dev) or Flux2KleinPipeline (klein base).

Latents are the autoencoder's, with the mean and the variance of each of the 4 C numbers of a 2x2 patch set to 0 and 1.

Shapes: B batch, N image tokens, T text tokens, C latent channels, H, W latent size, D network width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import Conditioning, Part
from piflow_cli.core.schedule import Shift
from piflow_cli.errors import ModelError
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.tokens import BackboneClass, TokenBackbone, block_targets, pack, unpack

DEV, KLEIN = "Flux2Pipeline", "Flux2KleinPipeline"
DOUBLE_TARGETS = ("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out")
SINGLE_TARGETS = ("attn.to_qkv_mlp_proj", "attn.to_out")
TIME_TARGETS = ("time_guidance_embed.timestep_embedder.linear_1", "time_guidance_embed.timestep_embedder.linear_2")
PATCH = 2
SIZES_KEPT = 16
"""Sizes whose position ids are kept on a device."""
TIME_SCALE = 1000
"""The network embeds 1000 sigma, and 1000 times the guidance scale."""
PUBLISHED_PARTS = {
    7680: Part("Qwen3-4B", 4_022_468_096, True, "published"),
    12288: Part("Qwen3-8B", 8_190_735_360, True, "published"),
    15360: Part("Mistral Small 3.2", 24_011_361_280, True, "published"),
    None: Part("autoencoder", 84_046_115, False, "published"),
}
"""Encoders by the width of the embeddings that they give."""


class Flux2Backbone(TokenBackbone):
    """How to call a Flux2Transformer2DModel, whatever its final projection is."""

    embedding_name = "time_guidance_embed"

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Network output (B, channels, H, W) at x (B, C, H, W), sigma (B,)."""
        height, width = x.shape[-2:]
        tokens = module(
            hidden_states=pack(x.to(module.dtype)),  # (B, N, 4 C)
            encoder_hidden_states=condition.embeds.to(module.dtype),
            timestep=sigma,
            guidance=condition.guidance,
            img_ids=_image_ids(height // PATCH, width // PATCH, x.device),
            txt_ids=_text_ids(condition.embeds.shape[1], x.device),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def embed(self, module: nn.Module, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Time and guidance embedding (B, D)."""
        guidance = condition.guidance
        if guidance is not None:
            guidance = guidance.to(module.dtype) * TIME_SCALE
        return module.time_guidance_embed(sigma.to(module.dtype) * TIME_SCALE, guidance)

    def lora_targets(self, module: nn.Module) -> list[str]:
        """Ours, after those of FLUX.1: all MLPs, which single blocks have in one layer with attention, and the time."""
        double = block_targets(module, "transformer_blocks", DOUBLE_TARGETS)
        return [*double, *block_targets(module, "single_transformer_blocks", SINGLE_TARGETS), *TIME_TARGETS]

    def to_call(self, noise: Tensor) -> Tensor:
        """Patches (B, 4 C, H/2, W/2) of noise (B, C, H, W)."""
        return patchify(noise)

    def from_base(self, given: Tensor, height: int, width: int) -> Tensor:
        """Latents of tokens (B, N, 4 C), or of patches (B, 4 C, H/2, W/2)."""
        return unpatchify(given) if given.ndim == 4 else unpack(given, height, width)


def patchify(x: Tensor) -> Tensor:
    """Patches (B, 4 C, H/2, W/2) of x (B, C, H, W), as the pipelines make them."""
    from diffusers import Flux2Pipeline

    return Flux2Pipeline._patchify_latents(x)


def unpatchify(patches: Tensor) -> Tensor:
    """The inverse: (B, C, H, W) of patches (B, 4 C, H/2, W/2)."""
    from diffusers import Flux2Pipeline

    return Flux2Pipeline._unpatchify_latents(patches)


@lru_cache(maxsize=SIZES_KEPT)
def _image_ids(rows: int, columns: int, device: torch.device) -> Tensor:
    """Position ids (N, 4) of frame, row, column and token, as the pipelines make them."""
    from diffusers import Flux2Pipeline

    with torch.inference_mode(False):  # kept for calls that record a graph
        return Flux2Pipeline._prepare_latent_ids(torch.empty(1, 1, rows, columns))[0].to(device)


@lru_cache(maxsize=SIZES_KEPT)
def _text_ids(length: int, device: torch.device) -> Tensor:
    """Position ids (T, 4): text has its place in the sequence alone."""
    from diffusers import Flux2Pipeline

    with torch.inference_mode(False):
        return Flux2Pipeline._prepare_text_ids(torch.empty(1, length, 1))[0].to(device)


class Flux2Space(TextSpace):
    """Hidden states of three layers of a language model beside each other, and latents normalised patch by patch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        tokenizer = self.pipeline.tokenizer
        if tokenizer is not None and tokenizer.chat_template is None:
            raise ModelError(
                f"the tokenizer of {self.settings.source} has no chat template (chat_template.jinja, or chat_template "
                "in its tokenizer_config.json), which prompts are put into; download it again"
            )

    def embed(
        self,
        prompts: list[str],
        *,
        length: int,
        others: Mapping[str, list[str]] = MappingProxyType({}),  # noqa: ARG002
    ) -> TextCondition:
        """Embeddings (B, T, 3 x the language model's width), padding included and unmasked."""
        embeds, _ = self.pipeline.encode_prompt(prompts, device=self.device, max_sequence_length=length)
        return TextCondition(embeds=embeds)

    def prompt_lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of the filled chat template."""
        if self._is_klein:
            chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
            options = {"add_generation_prompt": True, "enable_thinking": False}
        else:
            from diffusers.pipelines.flux2.pipeline_flux2 import format_input

            chats, options = format_input(list(prompts), self.pipeline.system_message), {}
        filled = self.tokenizer.apply_chat_template(chats, tokenize=True, return_dict=True, **options)
        return [len(ids) for ids in filled["input_ids"]]

    @property
    def _is_klein(self) -> bool:
        return self.base_class.__name__ == KLEIN

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the patches, (1, 4 C, 1, 1) both, in float32."""
        vae = self.pipeline.vae
        mean, variance = (
            s.to(device, torch.float32).view(1, -1, 1, 1) for s in (vae.bn.running_mean, vae.bn.running_var)
        )
        return mean, (variance + vae.config.batch_norm_eps).sqrt()

    def _raw(self, latents: Tensor) -> Tensor:
        """Latents as the autoencoder has them, of normalised ones (B, C, H, W)."""
        mean, std = self._statistics(latents.device)
        return unpatchify(patchify(latents) * std + mean)

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], not clamped, of latents (B, C, H, W)."""
        vae = self.pipeline.vae
        return vae.decode(self._raw(latents).to(vae.dtype), return_dict=False)[0]

    def to_latents(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Latents (B, C, H, W) of pictures (B, 3, H, W) in [-1, 1]."""
        mean, std = self._statistics(pixels.device)
        posterior = self.pipeline.vae.encode(pixels).latent_dist
        return unpatchify((patchify(posterior.sample(generator).float()) - mean) / std)

    def base_arguments(self, condition: TextCondition) -> dict[str, Any]:
        """Embeddings."""
        return {"prompt_embeds": condition.embeds}

    def condition_of(self, arguments: Mapping[str, Any]) -> TextCondition:
        """Of embeddings."""
        return TextCondition(arguments["prompt_embeds"])

    def base_guidance(self, scale: float) -> dict[str, Any]:
        """The scale that the network embeds, or that of two passes."""
        return {"guidance_scale": self.settings.guidance_scale if self.embedded_guidance else scale}

    def base_result(self, latents: Tensor) -> Tensor:
        """Tokens (B, N, 4 C) from dev; from klein latents (B, C, H, W) as its autoencoder has them."""
        return self._raw(latents) if self._is_klein else self.backbone.to_base(latents)


class Flux2(TextFamily):
    """A FLUX.2 pipeline: klein base or dev."""

    type: Literal["flux2"] = "flux2"
    source: str = Field("black-forest-labs/FLUX.2-klein-base-4B", description="pipeline's folder or hub id")
    guidance_scale: float = Field(
        4.0, ge=0, le=100, description="embedded where the network takes it (dev), else by two passes (klein base)"
    )

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
