"""Qwen-Image-2.1 teachers: QwenImage21Transformer2DModel in a diffusers QwenImage21Pipeline.

Shapes: B batch, N image tokens, T text tokens, C latent channels, H, W latent size, D network width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import BaseWalk, Conditioning, Part, PatchLayout
from piflow_cli.errors import ModelError
from piflow_cli.teachers.qwen_image import OneFrameSpace
from piflow_cli.teachers.text.family import TextFamily
from piflow_cli.teachers.text.reference import beside
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.tokens import BackboneClass, TextBackbone, block_targets, prompts_of

if TYPE_CHECKING:
    from piflow_cli.teachers.text.teacher import TextTeacher

SLOT = 2
"""Latent positions along the side of a group that the joint sequence has one place for."""
FACTOR = 16
"""Pixels along the side of a latent position, as the pipeline has it whatever the autoencoder's config says."""
MLP_TARGETS = ("img_mlp.proj", "img_mlp.gate_layer", "img_mlp.out")
TIME_TARGETS = ("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2")


class QwenImage2Backbone(TextBackbone):
    """How to call a QwenImage21Transformer2DModel, one prompt a call.

    It has one layout of positions for a batch, in which pictures begin after the longest prompt, with its padding:
    beside a longer prompt a picture would be another one. Calls are as many as rows, not as lengths, so that processes
    that share weights call equally often.
    """

    layout = PatchLayout(sides=(1, 1), channels_last=False)
    size_step = (SLOT, SLOT)
    calls_by_row = True

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Network output (B, channels, H, W) at x (B, C, H, W), sigma (B,)."""
        rows = zip(self.to_base(x.to(module.dtype)).split(1), sigma.split(1), prompts_of(condition), strict=True)
        outputs = [self._predict_one(module, *row, x.shape[-2:]) for row in rows]
        return self.from_base(torch.cat(outputs), *x.shape[-2:])

    def _predict_one(
        self, module: nn.Module, tokens: Tensor, sigma: Tensor, prompt: Tensor, size: torch.Size
    ) -> Tensor:
        """Output (1, N, channels) at tokens (1, N, C) of latents of `size` (H, W), for a prompt (T, D of its own)."""
        height, width = size
        place = "cpu" if tokens.is_meta else tokens.device  # the network reads numbers of tokens off it
        places = torch.arange(len(prompt) + height * width // SLOT**2, device=place)  # text, then slots of 2x2
        output = module(
            hidden_states=tokens,
            encoder_hidden_states=prompt[None].to(module.dtype),
            timestep=sigma,
            img_shapes=[[(1, height, width)]],
            img_mask=places[None] >= len(prompt),
            return_dict=False,
        )[0]
        return output[:, -height * width :]

    def embed(self, module: nn.Module, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Time embedding (B, D)."""
        sigma = sigma.to(module.dtype)
        return module.time_text_embed(sigma, condition.embeds.to(module.dtype))  # only the dtype of the latter is read

    def embedded(self, outputs: Sequence[Tensor]) -> Tensor:
        """What was read off the time embedding of each call, where a row of time 0, which text gets, may come last."""
        return torch.cat([output[:1] for output in outputs])

    def lora_targets(self, module: nn.Module) -> list[str]:
        """Ours, after those of FLUX.1: the MLPs of all blocks and the time embedding."""
        return [*block_targets(module, "transformer_blocks", MLP_TARGETS), *TIME_TARGETS]

    def to_base(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) of x (B, C, H, W): one a position."""
        return x.flatten(2).transpose(1, 2)

    def from_base(self, given: Tensor, height: int, width: int) -> Tensor:
        """The inverse, for any number of channels."""
        return given.transpose(1, 2).unflatten(2, (height, width))


class QwenImage2Space(OneFrameSpace):
    """Embeddings of a vision-language model under the pipeline's template, and latents of pictures with opacity."""

    embedding_arguments: ClassVar[tuple[str, ...]] = ("prompt_embeds", "prompt_embeds_mask")
    walk_arguments: ClassVar[Mapping[str, Any]] = MappingProxyType({"use_kv_cache": False})

    @property
    def tokenizer(self) -> Any:
        """That of the processor."""
        return self.pipeline.processor.tokenizer

    def embed(
        self,
        prompts: list[str],
        *,
        length: int,
        others: Mapping[str, list[str]] = MappingProxyType({}),  # noqa: ARG002
    ) -> TextCondition:
        """Embeddings (B, T, D) with their mask (B, T), None where no prompt is padded; the pipeline cuts none off."""
        embeds, mask, _ = self.pipeline.encode_prompt(prompts, device=self.device)
        mask = mask[:, :length].bool() if mask is not None else None
        return TextCondition(embeds=embeds[:, :length], mask=None if mask is None or bool(mask.all()) else mask)

    def prompt_lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of the filled template without its system part."""
        texts = [self.pipeline.prompt_template_t2i.format(prompt or " ") for prompt in prompts]
        return [len(ids) - self.pipeline._drop_idx for ids in self.tokenizer(texts).input_ids]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of latents (B, C, H, W), over white where they are transparent."""
        with self._on_device([self.pipeline.vae]):
            pictures = self.to_pixels(latents.to(self.device))
        return over_white((pictures.float() / 2 + 0.5).clamp(0, 1))

    def to_latents(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Latents (B, C, H, W) of opaque pictures (B, 3, H, W) in [-1, 1]; `to_pixels` gives the opacity too."""
        return super().to_latents(torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1), generator)

    def base_arguments(self, condition: TextCondition) -> dict[str, Any]:
        """Embeddings and their mask."""
        return {"prompt_embeds": condition.embeds, "prompt_embeds_mask": condition.mask}

    def condition_of(self, arguments: Mapping[str, Any]) -> TextCondition:
        """Of both."""
        mask = arguments.get("prompt_embeds_mask")
        if arguments.get("prompt_embeds") is None:
            raise ValueError("prompt_embeds_mask means nothing without prompt_embeds")
        return TextCondition(arguments["prompt_embeds"], mask=mask.bool() if mask is not None else None)

    def base_guidance(self, scale: float) -> dict[str, Any]:
        """The scale of two passes."""
        return {"true_cfg_scale": scale}

    def from_base_pictures(self, given: Tensor) -> Tensor:
        """Over white where they are transparent."""
        return over_white(given.float())


def over_white(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] of such with opacity, (B, 4, H, W), on a white ground."""
    colours, opacity = pictures[:, :3], pictures[:, 3:]
    return colours * opacity + (1 - opacity)


class QwenImage2(TextFamily):
    """A Qwen-Image-2.1 pipeline."""

    type: Literal["qwen_image_2"] = "qwen_image_2"
    source: str = Field("Qwen/Qwen-Image-2.1", description="pipeline's folder or hub id")
    guidance_scale: float = Field(
        1.0, ge=0, le=100, description="by two passes on top of the guidance that was distilled into it; 1 is none"
    )

    tokenizers: ClassVar[tuple[str, ...]] = ("processor",)
    essential: ClassVar[tuple[str, ...]] = ("processor",)
    pipeline_classes: ClassVar[tuple[str, ...]] = ("QwenImage21Pipeline",)
    transformer_class: ClassVar[str] = "QwenImage21Transformer2DModel"
    backbone_class: ClassVar[BackboneClass] = QwenImage2Backbone
    space_class: ClassVar[Callable[..., TextSpace]] = QwenImage2Space
    architectures: ClassVar[dict[str, dict[str, Any]]] = {"Qwen-Image-2.1": {}}
    published_parts: ClassVar[tuple[Part, ...]] = (
        Part("Qwen3-VL-8B", 8_767_123_696, True, "published"),
        Part("autoencoder", 337_740_404, False, "published"),
    )

    def check_index(self, index: dict[str, Any]) -> None:
        """Raise ModelError for a pipeline that was distilled to few steps."""
        if steps := index.get("sample_sigmas"):
            raise ModelError(
                f"{self.source} is no teacher: it was distilled to {len(steps)} steps at noise levels of its own "
                "(sample_sigmas). Take its base, such as Qwen/Qwen-Image-2.1"
            )

    def base_walk(
        self,
        teacher: TextTeacher,
        condition: TextCondition,
        *,
        size_px: tuple[int, int],
        seed: int,
        num_steps: int,
        scale: float,
        pictures: Sequence[Any] = (),
    ) -> BaseWalk:
        """The walks of the base's own pipeline for each prompt by itself, as one."""
        how = {"size_px": size_px, "num_steps": num_steps, "scale": scale, "pictures": pictures}
        rows = condition.rows()
        walks = [super(QwenImage2, self).base_walk(teacher, row, seed=seed + i, **how) for i, row in enumerate(rows)]
        return beside(walks, calls=walks[0].calls)  # as the backbone calls it: prompt by prompt

    def conditioning(self, module: nn.Module) -> Conditioning:
        """Embeddings as long as their prompt."""
        return Conditioning(text_tokens=self.max_sequence_length, text_width=module.config.context_in_dim)

    def halvings(self, autoencoder: dict[str, Any]) -> int:
        """As many as it says of its levels in time."""
        return len(autoencoder["temperal_downsample"])

    def latent_factor(self) -> int:
        """Pixels along the side of a latent position."""
        return FACTOR

    def latent_channels(self, config: dict[str, Any]) -> int:
        """C."""
        return config["in_channels"]
