"""Which network gives the features: the embedded digits classifier, or Inception from a file."""
# B pictures, D features, K classes, C, H, W picture.

import json
from pathlib import Path

import torch
from torch import Tensor

from piflow_cli.errors import DataError, ModelError
from piflow_cli.metrics.digits_net import FEATURE_DIM, SIZE_PX, DigitsNet
from piflow_cli.metrics.features import Detector, FeatureSet
from piflow_cli.metrics.torchscript import INCEPTION_URL, load_torchscript

DIGITS_NAME = "digits-cnn"
DIGITS_FOLDER = Path(__file__).parents[1] / "zoo" / "digits" / "features"


class DigitsDetector:
    """The embedded classifier of 8x8 grey digits: a yardstick for the digits alone, on no scale of Inception's."""

    name = DIGITS_NAME
    feature_dim = FEATURE_DIM

    def __init__(self, net: DigitsNet, *, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.net = net.eval().requires_grad_(False).to(self.device)

    @classmethod
    def from_folder(cls, folder: Path = DIGITS_FOLDER, *, device: str | torch.device = "cpu") -> "DigitsDetector":
        """Load `config.json` and `model.safetensors`.

        Raises:
            ModelError: the folder is incomplete, damaged, or holds another network.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            net = DigitsNet()
            net.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"The digits feature network in {folder} cannot be loaded: {error}. It ships with the package: "
                "reinstall it, or train it again with: python -m piflow_cli.zoo.train_digits_features"
            ) from error
        if config.get("detector") != DIGITS_NAME:
            raise ModelError(f"{folder} holds detector {config.get('detector')!r}, not {DIGITS_NAME!r}.")
        return cls(net, device=device)

    def title(self, metric: str) -> str:
        """For example "digits-FID (not Inception)"."""
        return f"digits-{metric} (not Inception)"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> FeatureSet:
        """Features (B, 64) and logits (B, 10) of (B, 1 or 3, 8, 8) pictures in [0, 1].

        Pixels are rounded to the 256 levels of a saved PNG first, so that a tensor and its file score the same.

        Raises:
            DataError: the pictures have another size.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2:] != (SIZE_PX, SIZE_PX):
            raise DataError(
                f"detector {DIGITS_NAME!r} measures grey pictures of {SIZE_PX}x{SIZE_PX} pixels, and got a batch of "
                f"shape {tuple(images.shape)}. For others pass the Inception file: {INCEPTION_URL}"
            )
        levels = images.to(self.device, torch.float32).clamp(0, 1).mul(255).round()
        grey = levels.mean(dim=1, keepdim=True).round()  # (B, 1, 8, 8); three equal channels give that channel
        features, logits = self.net(grey / 255)
        return FeatureSet(features.cpu(), logits.cpu())


def load_detector(spec: str, *, device: str | torch.device = "cpu", with_logits: bool = True) -> Detector:
    """The detector that `spec` names.

    Args:
        spec: "digits-cnn", or a path or URL of StyleGAN's `inception-2015-12-05.pt` (`#sha256=HEX` for another file).
        device: where it runs; features come back on the CPU.
        with_logits: also give class logits where they cost a second pass (Inception).

    Raises:
        ModelError: it cannot be loaded.
    """
    if spec == DIGITS_NAME:
        return DigitsDetector.from_folder(device=device)
    return load_torchscript(spec, device=device, with_logits=with_logits)
