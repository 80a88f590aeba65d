"""Cosines of pictures and their prompts by a CLIP model of transformers: what CLIP score and its descendants are."""
# B pictures, D embedding, C, H, W picture, S size of the square that is seen, T tokens.

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from piflow_cli.io.checksums import tensors_sha256
from piflow_cli.io.pictures import to_pictures
from piflow_cli.metrics.detectors.features import FeatureSet
from piflow_cli.metrics.prompted.models import load_judge, prepared

Prepare = Callable[["ClipJudge", Tensor], Tensor]
"""Pictures (B, C, H, W) in [0, 1] as the model takes them (B, 3, S, S)."""


class ClipJudge:
    """Says (B, 1): the cosine of a picture's embedding and its prompt's, times a scale.

    Prompts are cut to the tokens that the model reads, 77 for CLIP.

    Args:
        model: transformers' CLIPModel.
        processor: of pictures, by Pillow.
        tokenizer: of prompts.
        name: of model and weights.
        scale: of the cosine; None is the model's own exp(logit_scale).
        prepare: how pictures are made what the model sees; None is the processor's way: they cover a square.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        tokenizer: Any,
        *,
        name: str,
        device: str | torch.device,
        scale: float | None,
        prepare: Prepare | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model, self.name = model.to(self.device), name
        self.processor, self.tokenizer = processor, tokenizer
        self.scale = model.logit_scale.exp().item() if scale is None else scale
        self.prepare: Prepare = prepare or covering
        self.num_tokens = model.config.text_config.max_position_embeddings

    def title(self, metric: str) -> str:
        """Names the model: scores of others do not compare."""
        return f"{metric} ({self.name})"

    def described(self) -> str:
        """Preparation, tokens, scale and weights."""
        return (
            f"pictures {self.prepare.__name__} a square, {prepared(self.processor)}, {self.num_tokens} tokens, scale "
            f"{self.scale:.6g}, weights {tensors_sha256(self.model.state_dict())[:12]}"
        )

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> FeatureSet:
        """Scores (B, 1) of pictures (B, C, H, W) in [0, 1] and their B prompts."""
        pixels = self.prepare(self, images.expand(-1, 3, -1, -1)).to(self.device)
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self.num_tokens, return_tensors="pt"
        ).to(self.device)  # (B, T)
        seen = self.model.get_image_features(pixel_values=pixels).pooler_output  # (B, D)
        read = self.model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output  # (B, D)
        cosines = functional.cosine_similarity(seen.float(), read.float(), dim=1)
        return FeatureSet((self.scale * cosines).unsqueeze(1).cpu())


def covering(judge: ClipJudge, images: Tensor) -> Tensor:
    """Pictures that cover the square, cut about their middle."""
    return judge.processor(images=to_pictures(images), return_tensors="pt").pixel_values


def letterboxed(judge: ClipJudge, images: Tensor) -> Tensor:
    """Whole pictures in the square, by torch's antialiased bicubic resizing, with black beside them.

    Source: HPSv2's own preparation (github.com/tgxs002/HPSv2, open_clip/transform.py: ResizeMaxSize).
    """
    processor, size_px = judge.processor, judge.model.config.vision_config.image_size
    height, width = images.shape[2:]
    scale = size_px / max(height, width)
    target = (round(height * scale), round(width * scale))
    small = functional.interpolate(images.float(), target, mode="bicubic", antialias=True, align_corners=False)
    top, left = (size_px - target[0]) // 2, (size_px - target[1]) // 2
    edges = (left, size_px - target[1] - left, top, size_px - target[0] - top)
    mean, deviation = (torch.tensor(v).view(1, -1, 1, 1) for v in (processor.image_mean, processor.image_std))
    return (functional.pad(small.clamp(0, 1), edges) - mean) / deviation


def load_clip(
    spec: str, device: str | torch.device, *, scale: float | None, prepare: Prepare | None = None
) -> ClipJudge:
    """The judge of a CLIPModel's folder or hub id.

    Raises:
        ModelError: it cannot be had, or is no CLIPModel.
    """
    from transformers import CLIPModel

    model, (processor, tokenizer), name = load_judge(
        spec,
        model=CLIPModel.from_pretrained,
        prepares=_preparation,
        kind="a CLIPModel of transformers with tokenizer and preprocessor_config.json",
        dtype=torch.float32,
    )
    return ClipJudge(model, processor, tokenizer, name=name, device=device, scale=scale, prepare=prepare)


def _preparation(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoTokenizer

    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    return processor, AutoTokenizer.from_pretrained(folder, local_files_only=True)
