"""Z-Image teachers: ZImageTransformer2DModel in a diffusers ZImagePipeline.

Shapes: B batch, T text tokens, C latent channels, H, W latent size, D width of the time embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition, join_conditions
from piflow_cli.core.interfaces import Conditioning, Part, PatchLayout
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.tokens import BackboneClass, TextBackbone, block_targets, prompts_of

FINAL_LAYER = "all_final_layer.2-1"
"""The module has an end for each size of patch, by its sides in space and time; pipelines use this one."""
MLP_TARGETS = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
BLOCKS = ("noise_refiner", "context_refiner", "layers")
TIME_TARGETS = ("t_embedder.mlp.0", "t_embedder.mlp.2")


class ZImageBackbone(TextBackbone):
    """How to call a ZImageTransformer2DModel: its time runs the other way, and its output is data - noise."""

    projection_name = f"{FINAL_LAYER}.linear"
    trained_modules = (f"{FINAL_LAYER}.adaLN_modulation",)
    embedding_name = "t_embedder"
    time_argument = "t"
    layout = PatchLayout(sides=(2, 2), channels_last=True)

    def embed_dim(self, module: nn.Module) -> int:
        """D, narrower than the transformer."""
        return module.t_embedder.mlp[2].out_features

    def replace_projection(self, module: nn.Module, head: nn.Module, *, output_channels: int) -> None:  # noqa: ARG002
        """Put a head in the place of the final projection; how many channels it gives is read off its tokens."""
        module.set_submodule(self.projection_name, head)
        module.out_channels = -1  # a side of the shapes that the module reshapes its tokens to

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Negated network output (B, channels, H, W) at x (B, C, H, W), sigma (B,)."""
        pictures = x.to(module.dtype).unsqueeze(2).unbind()  # of one frame each, (C, 1, H, W)
        captions = [embeds.to(module.dtype) for embeds in prompts_of(condition)]
        return -torch.stack(module(list(pictures), 1 - sigma, captions, return_dict=False)[0]).squeeze(2)

    def embed(self, module: nn.Module, sigma: Tensor, condition: TextCondition) -> Tensor:  # noqa: ARG002
        """Time embedding (B, D)."""
        return module.t_embedder((1 - sigma) * module.t_scale).to(module.dtype)

    def lora_targets(self, module: nn.Module) -> list[str]:
        """Ours, after those of FLUX.1: all MLPs and the time embedding."""
        return [name for blocks in BLOCKS for name in block_targets(module, blocks, MLP_TARGETS)] + [*TIME_TARGETS]


class ZImageSpace(TextSpace):
    """Embeddings of a language model under its chat template, as long as their prompt."""

    embedding_arguments: ClassVar[tuple[str, ...]] = ("prompt_embeds",)

    def embed(
        self,
        prompts: list[str],
        *,
        length: int,
        others: Mapping[str, list[str]] = MappingProxyType({}),  # noqa: ARG002
    ) -> TextCondition:
        """Embeddings (B, T, D) with their mask (B, T), None where no prompt is padded."""
        captions, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=False, max_sequence_length=length
        )  # the pipeline writes into the list that it is given
        return _joined(captions)

    def prompt_lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of the filled template."""
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = [self.tokenizer.apply_chat_template(chat, **options) for chat in chats]
        return [len(ids) for ids in self.tokenizer(texts).input_ids]

    def base_arguments(self, condition: TextCondition) -> dict[str, Any]:
        """A list of embeddings."""
        return {"prompt_embeds": prompts_of(condition)}

    def condition_of(self, arguments: Mapping[str, Any]) -> TextCondition:
        """Of such a list."""
        return _joined(arguments["prompt_embeds"])

    def base_guidance(self, scale: float) -> dict[str, Any]:
        """The base's own scale counts from 0."""
        return {"guidance_scale": scale - 1}


def _joined(captions: Sequence[Tensor]) -> TextCondition:
    """One condition of embeddings (T, D) of any lengths."""
    return join_conditions([TextCondition(caption[None]) for caption in captions])


class ZImage(TextFamily):
    """A Z-Image pipeline."""

    type: Literal["z_image"] = "z_image"
    source: str = Field("Tongyi-MAI/Z-Image", description="pipeline's folder or hub id")
    guidance_scale: float = Field(5.0, ge=0, le=100, description="by two passes, with the negative prompt")
    max_sequence_length: int = Field(512, ge=1, le=1024, description="tokens a prompt and its template are cut to")

    pipeline_classes: ClassVar[tuple[str, ...]] = ("ZImagePipeline",)
    transformer_class: ClassVar[str] = "ZImageTransformer2DModel"
    backbone_class: ClassVar[BackboneClass] = ZImageBackbone
    space_class: ClassVar[Callable[..., TextSpace]] = ZImageSpace
    architectures: ClassVar[dict[str, dict[str, Any]]] = {"Z-Image": {}}
    published_parts: ClassVar[tuple[Part, ...]] = (
        Part("Qwen3-4B", 4_022_468_096, True, "published"),
        Part("autoencoder", 83_819_683, False, "published"),
    )

    def conditioning(self, module: nn.Module) -> Conditioning:
        """Embeddings as long as their prompt."""
        return Conditioning(text_tokens=self.max_sequence_length, text_width=module.config.cap_feat_dim)

    def latent_channels(self, config: dict[str, Any]) -> int:
        """C."""
        return config["in_channels"]
