"""FLUX.2's prompts, reference pictures and latents.

Latents are the autoencoder's, with the mean and the variance of each of the 4 C numbers of a 2x2 patch set to 0 and 1.

Shapes: B batch, N image tokens, T text tokens, C latent channels, H, W latent size, D network width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.errors import DataError, ModelError
from piflow_cli.teachers.flux2.backbone import PATCH, patchify, unpatchify
from piflow_cli.teachers.text.space import TextSpace

if TYPE_CHECKING:
    from PIL.Image import Image

DEV, KLEIN = "Flux2Pipeline", "Flux2KleinPipeline"
NUM_PICTURES = (0, 10)
"""Reference pictures that are taken; the published models were shown up to ten."""
LARGEST_REFERENCE_PX = 1024 * 1024
"""Pixels of a reference picture, beyond which the pipelines scale it down."""


class Flux2Space(TextSpace):
    """Hidden states of three layers of a language model beside each other, and latents normalised patch by patch."""

    num_pictures: ClassVar[tuple[int, int]] = NUM_PICTURES

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

    def _as_taken(self, picture: Image) -> tuple[Image, tuple[int, int]]:
        """A reference picture, scaled down where it is large, and the width and height that the pipelines cut from it.

        Raises:
            DataError: it is smaller than the pipelines take, or too long.
        """
        processor = self.pipeline.image_processor
        try:
            processor.check_image_input(picture)
        except ValueError as error:
            raise DataError(str(error)) from None
        picture = processor._resize_if_exceeds_area(picture, LARGEST_REFERENCE_PX)
        step = self.factor * PATCH
        return picture, (picture.width // step * step, picture.height // step * step)

    def check_reference(self, picture: Image) -> None:
        """Raise DataError where a picture is smaller than the pipelines take, or too long."""
        self._as_taken(picture)

    def reference_latents(self, picture: Image) -> Tensor:
        """Normalised latents (1, C, H, W): the mode of the posterior, as the pipelines take it."""
        picture, (width, height) = self._as_taken(picture)
        vae = self.pipeline.vae
        pixels = self.pipeline.image_processor.preprocess(picture, height=height, width=width, resize_mode="crop")
        mean, std = self._statistics(self.device)
        mode = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist.mode()
        return unpatchify((patchify(mode.float()) - mean) / std)

    def size_about(self, pictures: Sequence[Image]) -> tuple[int, int]:
        """That of the first picture, as far as it is taken."""
        return self._as_taken(pictures[0])[1] if pictures else self.size_px

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
