"""Stable Diffusion 3 and 3.5 teachers: SD3Transformer2DModel in a diffusers StableDiffusion3Pipeline.

Shapes: B batch, T text tokens, C latent channels, H, W latent size, D network width, P width of the pooled embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import Conditioning, Part, PatchLayout
from piflow_cli.io.weights import read_json
from piflow_cli.teachers.local_parts import local_source
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.prompts import together
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.tokens import BackboneClass, TextBackbone, block_targets

IMAGE_TARGETS, TEXT_TARGETS = ("ff.net.0.proj", "ff.net.2"), ("ff_context.net.0.proj", "ff_context.net.2")
TIME_TARGETS = ("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2")
TIME_SCALE = 1000
"""The network embeds 1000 sigma."""
CLIP_TOKENS = 77
"""Of the sequence that both CLIP encoders share, padding included, where no tokenizer is here to say it."""


class SD3Backbone(TextBackbone):
    """How to call an SD3Transformer2DModel, whatever its final projection is."""

    layout = PatchLayout(sides=(2, 2), channels_last=True)

    def replace_projection(self, module: nn.Module, head: nn.Module, *, output_channels: int) -> None:  # noqa: ARG002
        """Put a head in the place of the final projection; how many channels it gives is read off its tokens."""
        module.set_submodule(self.projection_name, head)
        module.out_channels = -1  # a side of the shapes that the module reshapes its tokens to

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Network output (B, channels, H, W) at x (B, C, H, W), sigma (B,)."""
        return module(
            hidden_states=x.to(module.dtype),
            encoder_hidden_states=condition.embeds.to(module.dtype),
            pooled_projections=condition.pooled.to(module.dtype),
            timestep=sigma * TIME_SCALE,
            return_dict=False,
        )[0]

    def embed(self, module: nn.Module, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Time and pooled text embedding (B, D)."""
        return module.time_text_embed(sigma * TIME_SCALE, condition.pooled.to(module.dtype))

    def lora_targets(self, module: nn.Module) -> list[str]:
        """Ours, after those of FLUX.1: all MLPs (the last block has none for text) and the time embedding."""
        read = len(module.transformer_blocks) - 1
        image = block_targets(module, "transformer_blocks", IMAGE_TARGETS)
        return [*image, *block_targets(module, "transformer_blocks", TEXT_TARGETS, count=read), *TIME_TARGETS]


class SD3Space(TextSpace):
    """Embeddings of two CLIP encoders beside each other and of T5 behind them, and both CLIP's pooled embeddings."""

    embedding_arguments: ClassVar[tuple[str, ...]] = ("prompt_embeds", "pooled_prompt_embeds")

    def embed(
        self, prompts: list[str], *, length: int, others: Mapping[str, list[str]] = MappingProxyType({})
    ) -> TextCondition:
        """Embeddings (B, T, D), padding included and unmasked, and (B, P)."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompts,
            others.get("prompt_2"),
            others.get("prompt_3"),
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=length,
        )
        return TextCondition(embeds=embeds, pooled=pooled)

    def base_arguments(self, condition: TextCondition) -> dict[str, Any]:
        """Embeddings and pooled embeddings."""
        return {"prompt_embeds": condition.embeds, "pooled_prompt_embeds": condition.pooled}

    def condition_of(self, arguments: Mapping[str, Any]) -> TextCondition:
        """Of both."""
        embeds, pooled = together(arguments, *self.embedding_arguments)
        return TextCondition(embeds, pooled=pooled)


class SD3(TextFamily):
    """A Stable Diffusion 3 or 3.5 pipeline."""

    type: Literal["sd3"] = "sd3"
    source: str = Field("stabilityai/stable-diffusion-3.5-medium", description="pipeline's folder or hub id")
    guidance_scale: float = Field(4.5, ge=0, le=100, description="by two passes, with the negative prompt")
    max_sequence_length: int = Field(256, ge=1, le=512, description="T5 tokens a prompt is cut to")

    pipeline_classes: ClassVar[tuple[str, ...]] = ("StableDiffusion3Pipeline",)
    transformer_class: ClassVar[str] = "SD3Transformer2DModel"
    backbone_class: ClassVar[BackboneClass] = SD3Backbone
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2", "text_encoder_3")
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2", "tokenizer_3")
    space_class: ClassVar[Callable[..., TextSpace]] = SD3Space
    architectures: ClassVar[dict[str, dict[str, Any]]] = {
        "SD3.5-medium": {
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        "SD3.5-large": {
            "num_layers": 38,
            "num_attention_heads": 38,
            "caption_projection_dim": 2432,
            "pos_embed_max_size": 192,
            "qk_norm": "rms_norm",
        },
    }
    published_parts: ClassVar[tuple[Part, ...]] = (
        Part("T5-XXL encoder", 4_762_310_656, True, "published"),
        Part("CLIP-G text encoder", 694_659_840, True, "published"),
        Part("CLIP-L text encoder", 123_650_304, True, "published"),
        Part("autoencoder", 83_819_683, False, "published"),
    )

    def conditioning(self, module: nn.Module) -> Conditioning:
        """The tokens of CLIP and of T5, padded and attended to, and both CLIP's pooled embeddings."""
        return Conditioning(
            text_tokens=self._clip_tokens() + self.max_sequence_length,
            text_width=module.config.joint_attention_dim,
            pooled_width=module.config.pooled_projection_dim,
            padded=True,
        )

    def _clip_tokens(self) -> int:
        folder = local_source(self.source)
        said = folder / "tokenizer" / "tokenizer_config.json" if folder is not None else None
        return read_json(said)["model_max_length"] if said is not None and said.is_file() else CLIP_TOKENS

    def base_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """A config with the base's own output."""
        return config | {"out_channels": config["in_channels"]}

    def latent_channels(self, config: dict[str, Any]) -> int:
        """C."""
        return config["in_channels"]
