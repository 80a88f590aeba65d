"""Qwen-Image-Edit teachers: QwenImageTransformer2DModel in a QwenImageEditPlusPipeline or a QwenImageEditPipeline.

Shapes: B batch, N image tokens, R tokens of reference pictures, T text tokens, C latent channels, H, W latent size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import BaseWalk, CacheCase, Conditioning, MemoryCase
from piflow_cli.teachers.qwen_image import PATCH, QwenImage, QwenImageBackbone
from piflow_cli.teachers.qwen_image_edit.space import NUM_PICTURES, PLUS, SINGLE, TARGET_PX, QwenImageEditSpace
from piflow_cli.teachers.text.reference import base_walk, beside
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.teacher import TextTeacher
from piflow_cli.teachers.text.tokens import BackboneClass, in_groups, pack, unpack

SEEN_SIDE_PX, CELL_PX = 384, 28
"""Of a square picture as the text encoder sees it, and of what makes a token there."""
PICTURE_WORDS = 7
"""Tokens of "Picture 1: " and of the marks around a picture."""
STEP_PX = 32
"""Of which the pipelines make the sides of pictures multiples."""


class QwenImageEditBackbone(QwenImageBackbone):
    """How to call a QwenImageTransformer2DModel with reference pictures, whatever its final projection is."""

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Network output (B, channels, H, W) at x (B, C, H, W), sigma (B,)."""
        return in_groups(lambda *at: self._predict(module, *at), x, sigma, condition)

    def _predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """The same where the reference pictures of all rows are of the same sizes."""
        height, width = x.shape[-2:]
        tokens = pack(x.to(module.dtype))  # (B, N, 4 C)
        num_own, shapes = tokens.shape[1], [(1, height // PATCH, width // PATCH)]
        if condition.references is not None:
            about, sizes = condition.references.of_one_layout()
            tokens = torch.cat([tokens, about.to(tokens)], dim=1)  # (B, N + R, 4 C)
            shapes += [(1, *size) for size in sizes]
        output = module(
            hidden_states=tokens,
            encoder_hidden_states=condition.embeds.to(module.dtype),
            encoder_hidden_states_mask=condition.mask,
            timestep=sigma,
            img_shapes=[shapes] * len(x),
            return_dict=False,
        )[0]
        return unpack(output[:, :num_own], height, width)


class QwenImageEdit(QwenImage):
    """A Qwen-Image-Edit pipeline."""

    type: Literal["qwen_image_edit"] = "qwen_image_edit"
    source: str = Field("Qwen/Qwen-Image-Edit-2511", description="pipeline's folder or hub id")
    max_sequence_length: int = Field(
        1024, ge=1, le=1024, description="text tokens that are reckoned with; none are cut"
    )

    num_pictures: ClassVar[tuple[int, int]] = NUM_PICTURES
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "processor")
    pipeline_classes: ClassVar[tuple[str, ...]] = (PLUS, SINGLE)
    backbone_class: ClassVar[BackboneClass] = QwenImageEditBackbone
    space_class: ClassVar[Callable[..., TextSpace]] = QwenImageEditSpace
    architectures: ClassVar[dict[str, dict[str, Any]]] = {
        "Qwen-Image-Edit": {},
        "Qwen-Image-Edit-2511": {"zero_cond_t": True},
    }
    measured_cases: ClassVar[dict[str, tuple[MemoryCase | CacheCase, ...]]] = {}

    def conditioning(self, module: nn.Module) -> Conditioning:
        """Embeddings as long as their prompt and what the encoder sees of pictures, in cells of 28 pixels."""
        return replace(super().conditioning(module), picture_tokens=round(SEEN_SIDE_PX / CELL_PX) ** 2 + PICTURE_WORDS)

    def reference_size(self, module: nn.Module, size_px: tuple[int, int] | None) -> tuple[int, ...]:
        """Latent positions of a reference picture: of a million pixels in its proportions, whatever its own size."""
        width, height = size_px or self.size_px
        side = math.sqrt(TARGET_PX / (width * height))
        return self.latent_size(module, tuple(round(length * side / STEP_PX) * STEP_PX for length in (width, height)))

    def base_walk(
        self,
        teacher: TextTeacher,
        condition: TextCondition,
        *,
        size_px: tuple[int, ...],
        seed: int,
        num_steps: int,
        scale: float,
        pictures: Sequence[Any] = (),
    ) -> BaseWalk:
        """The walks of the base's own pipeline for each prompt by itself, which takes one at a time, as one."""
        how = {"size_px": size_px, "num_steps": num_steps, "scale": scale, "pictures": pictures}
        return beside([base_walk(teacher, row, seed=seed + i, **how) for i, row in enumerate(condition.rows())])
