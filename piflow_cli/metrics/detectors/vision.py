"""Any vision model of transformers as a detector: DINOv2, CLIP, ViT and the like, from a folder or the hub."""
# B pictures, D features, C, H, W picture.

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from piflow_cli.errors import ModelError
from piflow_cli.io.checksums import tensors_sha256
from piflow_cli.io.hub import HUB_ID
from piflow_cli.io.weights import read_json, without_bars
from piflow_cli.metrics.detectors.features import FeatureSet
from piflow_cli.metrics.detectors.folders import model_folder

CONFIG, PREPROCESSING = "config.json", "preprocessor_config.json"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation where the model's own are not said."""
USUAL_SIZE_PX = 224
POOLER = "pooler."
"""Of layers that many published models leave out."""


def is_vision_model(spec: str) -> bool:
    """Whether a detector's name is a folder of a model, or a hub id that is no file here."""
    path = Path(spec).expanduser()
    return path.is_dir() or (bool(HUB_ID.fullmatch(spec)) and not path.exists())


class VisionDetector:
    """Features (B, D): what a model of pictures pools, such as DINOv2's class token, or CLIP's projected embedding.

    Pictures cover a square of the model's size, by torch's antialiased bicubic resizing, and are cut about their
    middle; transformers' own processors resize by Pillow, whose rounding differs in the last bit.

    Args:
        module: a model that takes `pixel_values`.
        name: for tables and references, of the model and its weights.
        size_px: of the square that it sees.
        mean, deviation: of a channel.
        pools: whether the model's own pooling has weights; else its first token is taken.
    """

    with_logits = False

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        size_px: int,
        mean: tuple[float, ...],
        deviation: tuple[float, ...],
        pools: bool,
        device: str | torch.device,
    ) -> None:
        self.module, self.name, self.size_px = module.to(device).eval().requires_grad_(False), name, size_px
        self.device, self.pools = torch.device(device), pools
        self.mean, self.deviation = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, deviation))
        self.feature_dim = self(torch.zeros(1, 3, size_px, size_px)).features.shape[1]

    def title(self, metric: str) -> str:
        """Names the model: scores of others do not compare."""
        return f"{metric} ({self.name})"

    def described(self) -> str:
        """Resizing, and its weights."""
        levels = (" ".join(f"{v:.4g}" for v in some.flatten().tolist()) for some in (self.mean, self.deviation))
        return (
            f"middle square of {self.size_px} px, antialiased bicubic, mean {next(levels)}, deviation {next(levels)}, "
            f"weights {tensors_sha256(self.module.state_dict())[:12]}"
        )

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> FeatureSet:
        """Features of (B, C, H, W) pictures in [0, 1]; grey ones are repeated to three channels."""
        pixels = _square(images.float().cpu().clamp(0, 1), self.size_px).expand(-1, 3, -1, -1)  # (B, 3, S, S)
        pooled = self._pooled(((pixels - self.mean) / self.deviation).to(self.device))
        return FeatureSet(pooled.float().cpu())

    def _pooled(self, pixels: Tensor) -> Tensor:
        if self.module.config.to_dict().get("vision_config") is not None:  # beside a text model
            return self.module.get_image_features(pixel_values=pixels).pooler_output
        output = self.module(pixel_values=pixels)
        pooled = output.get("pooler_output") if self.pools else None
        return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)


def load_vision(spec: str, *, device: str | torch.device) -> VisionDetector:
    """Load a model of transformers; only tensors are read, and no code of the folder's own is run.

    Args:
        spec: a folder with config.json and weights, or a hub id.
        device: where it runs.

    Raises:
        ModelError: missing, damaged, or no model of pictures.
    """
    from transformers import AutoModel

    found = model_folder(spec)
    folder = found.path
    config = read_json(folder / CONFIG)
    try:
        with without_bars():
            module, info = AutoModel.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, **found.reading
            )
        missing = [key for key in info["missing_keys"] if not key.startswith(POOLER)]
        if missing:
            raise ModelError(f"{folder} lacks {len(missing)} of the model's weights, such as {sorted(missing)[0]}")
        pools = not info["missing_keys"]
        size_px, mean, deviation = _preprocessing(folder, config)
        name = found.name(config.get("model_type", "vision"))
        return VisionDetector(
            module, name=name, size_px=size_px, mean=mean, deviation=deviation, pools=pools, device=device
        )
    except ModelError:
        raise
    except Exception as error:  # damage and models of other things share no ground class
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{spec} cannot be used as a detector: {reason}. It has to be a vision model of transformers, such as "
            "facebook/dinov2-base or openai/clip-vit-large-patch14."
        ) from None


def _preprocessing(folder: Path, config: dict[str, Any]) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Size of the square, mean and deviation, by the model's files."""
    said = read_json(folder / PREPROCESSING) if (folder / PREPROCESSING).is_file() else {}
    for size in (said.get("crop_size"), said.get("size"), config.get("vision_config", config).get("image_size")):
        if isinstance(size, dict):
            size = size.get("height") or size.get("shortest_edge")
        if isinstance(size, int) and 0 < size <= 4096:
            break
    else:
        size = USUAL_SIZE_PX
    mean, deviation = said.get("image_mean", IMAGENET[0]), said.get("image_std", IMAGENET[1])
    return size, tuple(map(float, mean)), tuple(map(float, deviation))


def _square(images: Tensor, size_px: int) -> Tensor:
    """The middle square (B, C, S, S) of pictures that cover it."""
    height, width = images.shape[2:]
    scale = size_px / min(height, width)
    target = (max(size_px, round(height * scale)), max(size_px, round(width * scale)))
    resized = functional.interpolate(images, target, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (target[0] - size_px) // 2, (target[1] - size_px) // 2
    return resized[:, :, top : top + size_px, left : left + size_px]
