"""What the feature networks that ship with the package share: loading with clear errors, and the levels of a PNG."""
# B pictures, D features, K classes, C, H, W picture.

import json
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from piflow_cli.errors import DataError, ModelError
from piflow_cli.io.checksums import tensors_sha256
from piflow_cli.io.weights import read_weights
from piflow_cli.metrics.detectors.features import FeatureSet
from piflow_cli.metrics.detectors.torchscript import INCEPTION_URL


class EmbeddedDetector:
    """A classifier of the package's own pictures: a yardstick for these alone, on no scale of Inception's.

    A kind says its `name`, the `subject` of its titles, the `pictures` it measures, `feature_dim`, `size_px`, its
    `folder`, the command that it is `remade_by`, and how to `build` its network and `prepare` pictures for it.
    """

    name: ClassVar[str]
    subject: ClassVar[str]
    pictures: ClassVar[str]
    feature_dim: ClassVar[int]
    size_px: ClassVar[int]
    folder: ClassVar[Path]
    remade_by: ClassVar[str]
    with_logits: ClassVar[bool] = True

    def __init__(self, net: nn.Module, *, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.net = net.eval().requires_grad_(False).to(self.device)

    @staticmethod
    def build(config: dict) -> nn.Module:
        """The network of a `config.json`, in float32, with any weights."""
        raise NotImplementedError

    @staticmethod
    def prepare(levels: Tensor) -> Tensor:
        """What the network takes, of (B, 1 or 3, H, W) pictures on the scale of 0 to 255."""
        raise NotImplementedError

    @classmethod
    def from_folder(cls, folder: Path | None = None, *, device: str | torch.device = "cpu") -> Self:
        """Load `config.json` and `model.safetensors`, by default those that ship.

        Raises:
            ModelError: the folder is incomplete, damaged, or holds another network.
        """
        folder = cls.folder if folder is None else folder
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            net = cls.build(config)
            net.load_state_dict(read_weights(folder / "model.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ModelError) as error:
            raise ModelError(
                f"The {cls.subject} feature network in {folder} cannot be loaded: {error}. It ships with the package: "
                f"reinstall it, or train it again with: {cls.remade_by}"
            ) from error
        if config.get("detector") != cls.name:
            raise ModelError(f"{folder} holds detector {config.get('detector')!r}, not {cls.name!r}.")
        return cls(net, device=device)

    def title(self, metric: str) -> str:
        """For example "digits-FID (not Inception)"."""
        return f"{self.subject}-{metric} (not Inception)"

    def described(self) -> str:
        """Its weights; nothing is resized."""
        return f"{self.size_px}x{self.size_px} px as they are, weights {tensors_sha256(self.net.state_dict())[:12]}"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> FeatureSet:
        """Features (B, D) and logits (B, K) of (B, 1 or 3, H, W) pictures in [0, 1].

        Pixels are rounded to the 256 levels of a saved PNG first, so that a tensor and its file score the same.

        Raises:
            DataError: the pictures have another size.
        """
        size_px = self.size_px
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2:] != (size_px, size_px):
            raise DataError(
                f"detector {self.name!r} measures {self.pictures} of {size_px}x{size_px} pixels, and got a batch of "
                f"shape {tuple(images.shape)}. For others pass the Inception file: {INCEPTION_URL}"
            )
        levels = images.to(self.device, torch.float32).clamp(0, 1).mul(255).round()
        features, logits = self.net(self.prepare(levels))
        return FeatureSet(features.cpu(), logits.cpu())
