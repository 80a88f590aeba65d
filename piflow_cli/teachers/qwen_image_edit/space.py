"""Qwen-Image-Edit's prompts, which its text encoder reads beside the pictures that they are about.

Shapes: B batch, T text tokens, D width of the embeddings, C latent channels, H, W latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from piflow_cli.core.conditions import Embeddings, Instruction, TextCondition, join_conditions
from piflow_cli.errors import DataError
from piflow_cli.teachers.qwen_image import QwenImageSpace
from piflow_cli.teachers.text.pictures import check_number
from piflow_cli.teachers.text.prompts import PREVIEW_PROMPTS

if TYPE_CHECKING:
    from PIL.Image import Image

PLUS, SINGLE = "QwenImageEditPlusPipeline", "QwenImageEditPipeline"
NUM_PICTURES = (1, 8)
"""Reference pictures that are taken; the published models were shown up to three."""
TARGET_PX = 1024 * 1024
"""Pixels of what is made of reference pictures where nobody says it, as the pipelines have it."""
LONGEST = 200
"""Times the shorter side that the longer one of a picture may be, as its text encoder has it."""
GREY = (127, 127, 127)


class QwenImageEditSpace(QwenImageSpace):
    """Embeddings of prompts with their pictures, and the latents of these."""

    @property
    def _is_single(self) -> bool:
        """Whether the pipeline takes one picture."""
        return self.base_class.__name__ == SINGLE

    @property
    def num_pictures(self) -> tuple[int, int]:
        """The fewest and the most reference pictures of a prompt."""
        return (1, 1) if self._is_single else NUM_PICTURES

    @property
    def tokenizer(self) -> Any:
        """The pipeline's."""
        return self.pipeline.tokenizer

    def prompt_lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, without the template and the pictures."""
        return [len(ids) for ids in self.tokenizer(list(prompts)).input_ids]

    def dropped_tokens(self, prompts: Sequence[str]) -> list[int]:
        """None: the pipelines cut nothing off."""
        return [0] * len(prompts)

    def embed_about(
        self,
        prompts: list[str],
        pictures: Sequence[Sequence[Image]],
        *,
        length: int,  # noqa: ARG002
        others: Mapping[str, list[str]] = MappingProxyType({}),  # noqa: ARG002
    ) -> TextCondition:
        """Embeddings (B, T, D) of prompts with their pictures, of the negative prompt with them, and these encoded."""
        check_number(self.num_pictures, pictures, name=self.settings.source)
        rows = [self._read(prompt, row) for prompt, row in zip(prompts, pictures, strict=True)]
        negative = [self._read(self.settings.negative_prompt, row) for row in pictures]
        joined, against = join_conditions(rows), join_conditions(negative)
        about = self.references(pictures)
        return replace(joined, references=replace(about, negative=Embeddings(against.embeds, against.mask)))

    def _read(self, prompt: str, pictures: Sequence[Image]) -> TextCondition:
        """Embeddings (1, T, D) of a prompt with its pictures, as the pipelines take them in."""
        seen = [self._resized(picture, *self._seen_size(picture)) for picture in pictures]
        image = seen[0] if self._is_single else seen
        embeds, _ = self.pipeline.encode_prompt([prompt], image=image, device=self.device)
        return TextCondition(embeds=embeds)

    def check_reference(self, picture: Image) -> None:
        """Raise DataError where a picture is longer than the text encoder sees."""
        shorter, longer = sorted(picture.size)
        if longer > LONGEST * shorter:
            raise DataError(
                f"it has {picture.width}x{picture.height} pixels; the longer side may be at most {LONGEST} times the "
                "shorter one"
            )

    def reference_latents(self, picture: Image) -> Tensor:
        """Normalised latents (1, C, H, W): the mode of the posterior, as the pipelines take it."""
        width, height = self._encoded_size(picture)
        if self._is_single:
            picture = self._resized(picture, width, height)
        pixels = self.pipeline.image_processor.preprocess(picture, height, width).unsqueeze(2)  # (1, 3, 1, H, W)
        vae = self.pipeline.vae
        mean, std = self._statistics(self.device)
        mode = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist.mode().float()
        return ((mode - mean) / std)[:, :, 0]

    def size_about(self, pictures: Sequence[Image]) -> tuple[int, int]:
        """A million pixels of the proportions of the last picture, in whole patches."""
        if not pictures:
            return self.size_px
        step = self.factor * 2
        width, height = self._dimensions(TARGET_PX, pictures[-1])
        return width // step * step, height // step * step

    def picture_arguments(self, pictures: Sequence[Image]) -> dict[str, Any]:
        """One picture, or a list of them."""
        return {"image": pictures[0] if self._is_single else list(pictures)}

    def preview_conditions(self, count: int) -> TextCondition:
        """Conditions of prompts of various kinds, about a grey picture."""
        from PIL import Image

        grey = Image.new("RGB", (64, 64), GREY)
        return self.encode_prompts([Instruction(prompt, (grey,)) for prompt in islice(cycle(PREVIEW_PROMPTS), count)])

    def _resized(self, picture: Image, width: int, height: int) -> Image:
        return self.pipeline.image_processor.resize(picture, height, width)

    def _seen_size(self, picture: Image) -> tuple[int, int]:
        """Width and height at which the text encoder sees a picture."""
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

        return self._dimensions(TARGET_PX if self._is_single else plus.CONDITION_IMAGE_SIZE, picture)

    def _encoded_size(self, picture: Image) -> tuple[int, int]:
        """Width and height at which the autoencoder encodes a picture."""
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

        return self._dimensions(TARGET_PX if self._is_single else plus.VAE_IMAGE_SIZE, picture)

    def _dimensions(self, area: int, picture: Image) -> tuple[int, int]:
        """Width and height of about `area` pixels in the proportions of a picture, as the pipelines reckon them."""
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

        module = pipeline_qwenimage_edit if self._is_single else pipeline_qwenimage_edit_plus
        return tuple(module.calculate_dimensions(area, picture.width / picture.height)[:2])
