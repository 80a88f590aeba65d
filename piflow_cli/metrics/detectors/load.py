"""Which network gives the features: an embedded classifier, Inception from a file, a vision model, or none."""
# B pictures, C, H, W picture.

import torch
from torch import Tensor

from piflow_cli.io.zoo import ZOO
from piflow_cli.metrics.detectors import digits_net, emoji_net
from piflow_cli.metrics.detectors.embedded import EmbeddedDetector
from piflow_cli.metrics.detectors.features import Detector
from piflow_cli.metrics.detectors.pixels import PIXELS_NAME, PixelDetector
from piflow_cli.metrics.detectors.torchscript import load_torchscript
from piflow_cli.metrics.detectors.vision import is_vision_model, load_vision

DIGITS_NAME = "digits-cnn"
DIGITS_FOLDER = ZOO / "digits" / "features"
EMOJI_NAME = "emoji-cnn"
EMOJI_FOLDER = ZOO / "emoji" / "features"


class DigitsDetector(EmbeddedDetector):
    """The embedded classifier of 8x8 grey digits; its features are (B, 64), its logits (B, 10)."""

    name = DIGITS_NAME
    subject = "digits"
    pictures = "grey pictures"
    feature_dim = digits_net.FEATURE_DIM
    size_px = digits_net.SIZE_PX
    folder = DIGITS_FOLDER
    remade_by = "python -m piflow_cli.zoo.digits.build.features"

    @staticmethod
    def build(config: dict) -> digits_net.DigitsNet:  # noqa: ARG004  (one signature for all)
        """The network; there is only one."""
        return digits_net.DigitsNet()

    @staticmethod
    def prepare(levels: Tensor) -> Tensor:
        """Grey (B, 1, 8, 8) in [0, 1]; three equal channels give that channel."""
        return levels.mean(dim=1, keepdim=True).round() / 255


class EmojiDetector(EmbeddedDetector):
    """The embedded classifier of 64x64 emoji; its features are (B, 256), its logits (B, K) of the base emoji."""

    name = EMOJI_NAME
    subject = "emoji"
    pictures = "colour pictures"
    feature_dim = emoji_net.FEATURE_DIM
    size_px = emoji_net.SIZE_PX
    folder = EMOJI_FOLDER
    remade_by = "python -m piflow_cli.zoo.emoji.build features"

    @staticmethod
    def build(config: dict) -> emoji_net.EmojiNet:
        """The network with a class for each of the names in `classes`."""
        return emoji_net.EmojiNet(len(config["classes"]))

    @staticmethod
    def prepare(levels: Tensor) -> Tensor:
        """Colours (B, 3, 64, 64) in [0, 1]; grey becomes three equal channels."""
        return levels.expand(-1, 3, -1, -1) / 255


EMBEDDED = {kind.name: kind for kind in (DigitsDetector, EmojiDetector)}


def load_detector(spec: str, *, device: str | torch.device = "cpu", with_logits: bool = True) -> Detector:
    """The detector that `spec` names.

    Args:
        spec: "digits-cnn", "emoji-cnn", "pixels", a folder or hub id of a vision model of transformers, or a path
            or URL of StyleGAN's `inception-2015-12-05.pt` (`#sha256=HEX` for another file).
        device: where it runs; features come back on the CPU.
        with_logits: also give class logits where they cost a second pass (Inception).

    Raises:
        ModelError: it cannot be loaded.
    """
    if spec in EMBEDDED:
        return EMBEDDED[spec].from_folder(device=device)
    if spec == PIXELS_NAME:
        return PixelDetector()
    if is_vision_model(spec):
        return load_vision(spec, device=device)
    return load_torchscript(spec, device=device, with_logits=with_logits)
