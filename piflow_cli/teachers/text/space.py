"""The conditions and the latent space of text-to-image models: the pipeline's own encoders and autoencoder.

Shapes: B batch, T text tokens, C latent channels, H, W latent size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from piflow_cli.core.conditions import Prompt, TextCondition
from piflow_cli.core.schedule import Shift
from piflow_cli.errors import ModelError
from piflow_cli.teachers.text.calls import BaseCalls
from piflow_cli.teachers.text.pictures import check_number, check_taken, pictures_of, references_of
from piflow_cli.teachers.text.placing import placed
from piflow_cli.teachers.text.prompts import PREVIEW_PROMPTS
from piflow_cli.teachers.text.tokens import TextBackbone, check_no_video, check_sides

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

    from piflow_cli.core.conditions import References
    from piflow_cli.teachers.text.settings import TextSettings


@dataclass
class TextSpace(BaseCalls):
    """Prompts in, latents out.

    Args:
        pipeline: a pipeline of the family's class; its transformer is not used here and may be None.
        settings: size, lengths and guidance.
        backbone: how the transformer is called, and its latents lie.
        device: where the transformer is, and so where conditions and latents belong.
        dtype: of the conditions.
        embedded_guidance: whether the network embeds the guidance scale.
        warnings: what a user should know of how the pipeline was loaded.

    `base_class` is the pipeline's own class of diffusers; a student's pipeline may take the pipeline's place.
    """

    pipeline: DiffusionPipeline
    settings: TextSettings
    backbone: TextBackbone
    device: torch.device
    dtype: torch.dtype
    embedded_guidance: bool
    warnings: tuple[str, ...] = ()
    base_class: type[DiffusionPipeline] = field(init=False)
    _null: TextCondition | None = field(default=None, init=False)

    embedding_arguments: ClassVar[tuple[str, ...]] = ("prompt_embeds",)
    walk_arguments: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Of the base's call, for it to call its network as a teacher is called."""
    image_channels = 3
    num_pictures: ClassVar[tuple[int, int]] = (0, 0)
    frames = fps = 1
    num_classes = None
    classes_are_named = False
    own_vae = None

    def __post_init__(self) -> None:
        self.base_class = type(self.pipeline)

    @property
    def max_tokens(self) -> int:
        """Tokens a prompt is cut to."""
        return self.settings.max_sequence_length

    def identity(self) -> tuple[str, tuple[object, ...]]:
        """Latents and text encoders."""
        return "latents, text encoders", (tuple(self.latent_shape), self.settings.encoder_fingerprint())

    @property
    def autoencoder(self) -> nn.Module:
        """The pipeline's."""
        return self.pipeline.vae

    def find_class(self, name: str) -> None:  # noqa: ARG002
        """None: conditions are prompts."""
        return

    def examples(self, count: int) -> list[str]:  # noqa: ARG002
        """One that any model can be asked for."""
        return [PREVIEW_PROMPTS[0]]

    @property
    def factor(self) -> int:
        """Pixels along the side of a latent position."""
        return self.pipeline.vae_scale_factor

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the settings."""
        return (self.settings.width, self.settings.height)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, *S) at the size of the settings."""
        return self.latent_shape_of(self.settings.width, self.settings.height)

    def latent_shape_of(self, width: int, height: int, frames: int | None = None) -> tuple[int, ...]:
        """(C, H, W) of pictures of width x height pixels.

        Raises:
            DataError: a side that is no positive multiple of the autoencoder's factor times the patch, or a video.
        """
        check_no_video(frames)
        check_sides(width, height, factor=self.factor, steps=self.backbone.side_steps())
        return (self.backbone.latent_channels, height // self.factor, width // self.factor)

    @property
    def encodes(self) -> bool:
        """Whether the text encoders are loaded."""
        return len(self.encoders()) == len(self.settings.encoders)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[Prompt]) -> TextCondition:
        """The condition of a batch of prompts.

        Raises:
            ModelError: the text encoders were not loaded.
            DataError: more or fewer reference pictures than the network takes, or one that is too small or too long.
        """
        if not self.encodes:
            raise ModelError(
                f"the text encoders of {self.settings.source} are not loaded, and the prompts are in no cache. Cache "
                "them (piflow distill --cache-only), or leave data.cache out."
            )
        check_taken(prompts, self.check_reference)
        pictures = pictures_of(prompts)
        with self._on_device([*self.encoders(), *([self.pipeline.vae] if any(pictures) else ())]):
            texts, length = list(map(str, prompts)), self.settings.max_sequence_length
            condition = self.embed_about(texts, pictures, length=length)
        return self._with_guidance(condition)

    def embed_about(
        self,
        prompts: list[str],
        pictures: Sequence[Sequence[Image]],
        *,
        length: int,
        others: Mapping[str, list[str]] = MappingProxyType({}),
    ) -> TextCondition:
        """As `embed`, with the reference pictures of each prompt; errors as `encode_prompts`."""
        check_number(self.num_pictures, pictures, name=self.settings.source)
        condition = self.embed(prompts, length=length, others=others)
        return replace(condition, references=self.references(pictures))

    def references(self, pictures: Sequence[Sequence[Image]]) -> References | None:
        """The reference pictures of each prompt, encoded; None without any. Errors as `reference_latents`."""
        return references_of(pictures, encode=self.reference_latents, backbone=self.backbone)

    def check_reference(self, picture: Image) -> None:
        """Raise DataError where a reference picture is too small or too long for the base's own pipeline."""

    def reference_latents(self, picture: Image) -> Tensor:
        """Latents (1, C, H, W) of a reference picture, of the size at which the base's own pipeline takes it.

        Raises:
            DataError: it is too small or too long.
        """
        raise NotImplementedError  # of families that take pictures

    def picture_arguments(self, pictures: Sequence[Image]) -> dict[str, Any]:
        """Reference pictures as arguments of the base's own pipeline."""
        return {"image": list(pictures)}

    def size_about(self, pictures: Sequence[Image]) -> tuple[int, int]:  # noqa: ARG002
        """Width and height of what the base's own pipeline makes of reference pictures where nobody says it."""
        return self.size_px

    @abstractmethod
    def embed(
        self, prompts: list[str], *, length: int, others: Mapping[str, list[str]] = MappingProxyType({})
    ) -> TextCondition:
        """Embeddings of prompts as the base's own pipeline makes them, without guidance.

        Args:
            prompts: B texts.
            length: tokens a prompt is cut to.
            others: B texts for each further argument of the base's call that takes prompts, such as prompt_2.
        """

    def encoders(self) -> list[nn.Module]:
        """The networks that encode prompts, as far as they are loaded."""
        parts = self.pipeline.components
        return [parts[name] for name in self.settings.encoders if parts.get(name) is not None]

    @property
    def tokenizer(self) -> Any:
        """The one that decides how much of a prompt is read: the last of the family's."""
        return self.pipeline.components[self.settings.tokenizers[-1]]

    def prompt_lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt if none were cut off, special ones included."""
        return [len(ids) for ids in self.tokenizer(list(prompts)).input_ids]

    def dropped_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt beyond what the encoder takes."""
        return [max(0, length - self.settings.max_sequence_length) for length in self.prompt_lengths(prompts)]

    def unknown_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Unknown tokens of each prompt; tokenizers of bytes have none."""
        tokenizer = self.tokenizer
        unknown = tokenizer.unk_token_id
        if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.pad_token_id):
            return [0] * len(prompts)
        return [ids.count(unknown) for ids in tokenizer(list(prompts)).input_ids]

    def conditions(self, drawn: Sequence[Prompt] | TextCondition) -> TextCondition:
        """What a data source drew, prompts or cached embeddings, as the network takes it."""
        if not isinstance(drawn, TextCondition):
            return self.encode_prompts(drawn)
        return self._with_guidance(drawn.to(self.device).cast(self.dtype))

    def encoded(self, drawn: Sequence[Sequence[Prompt] | TextCondition]) -> list[TextCondition]:
        """The prompts of several batches, each encoded as a batch; offloaded encoders go to the device once.

        The negative prompt is encoded with the first ones, where guidance takes two passes.
        """
        if all(isinstance(part, TextCondition) for part in drawn):
            return list(drawn)
        with self._on_device(self.encoders()):
            if not (self.embedded_guidance or self.settings.guidance_scale == 1 or self.num_pictures[0]):
                self.null_condition(1)
            return [part if isinstance(part, TextCondition) else self.encode_prompts(part) for part in drawn]

    def _with_guidance(self, condition: TextCondition) -> TextCondition:
        if not self.embedded_guidance:
            return condition
        scale = torch.full((len(condition),), float(self.settings.guidance_scale), device=self.device)
        return replace(condition, guidance=scale)

    def null_condition(self, count: int) -> TextCondition:
        """The condition of the negative prompt, `count` times; encoded once."""
        if self._null is None:
            self._null = self.encode_prompts([self.settings.negative_prompt])
        return self._null.expand(count)

    def set_null_condition(self, condition: TextCondition) -> None:
        """Give the condition of the negative prompt, (1, T, D), where it was encoded before."""
        self._null = self.conditions(condition)

    def preview_conditions(self, count: int) -> TextCondition:
        """Conditions of prompts of various kinds."""
        return self.encode_prompts(list(islice(cycle(PREVIEW_PROMPTS), count)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of latents (B, C, H, W)."""
        with self._on_device([self.pipeline.vae]):
            pictures = self.to_pixels(latents.to(self.device))
        return (pictures.float() / 2 + 0.5).clamp(0, 1)

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], not clamped, of latents (B, C, H, W), by an AutoencoderKL."""
        vae = self.pipeline.vae
        scaled = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)
        return vae.decode(scaled.to(vae.dtype), return_dict=False)[0]

    def own_shift(self, positions: int, *, num_steps: int) -> Shift:
        """The time grid of the base's own pipeline; arguments and errors as `Teacher.own_shift`."""
        return self.settings.own_shift(self.pipeline.scheduler.config, positions, num_steps=num_steps)

    @torch.no_grad()
    def encode_images(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C, H, W) in float32 of pictures (B, 3, H, W) in [0, 1]; the posterior is sampled."""
        with self._on_device([self.pipeline.vae]):
            return self.to_latents(images.to(self.device, self.pipeline.vae.dtype) * 2 - 1, generator)

    def to_latents(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Latents (B, C, H, W) of pictures (B, 3, H, W) in [-1, 1]."""
        vae = self.pipeline.vae
        posterior = vae.encode(pixels).latent_dist
        return (posterior.sample(generator).float() - (vae.config.shift_factor or 0)) * vae.config.scaling_factor

    def _on_device(self, modules: Sequence[nn.Module]) -> AbstractContextManager[None]:
        """Within the context offloaded modules are on the device."""
        return placed(modules if self.settings.offload_encoders else (), self.device)
