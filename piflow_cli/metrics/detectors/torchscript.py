"""Inception as the TorchScript file that StyleGAN2-ADA and EDM measure with, so that scores compare with theirs.

The file is a port of the 2015 TensorFlow graph, resizing included. Its hash is checked before TorchScript reads it, and
TorchScript, unlike a pickle, can run no Python of the file's own.
"""
# B pictures, D features, K classes, C, H, W picture.

import hashlib
import io
import os
import tempfile
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import torch
from torch import Tensor

from piflow_cli.errors import ModelError
from piflow_cli.io.checksums import tensors_sha256
from piflow_cli.io.tensors.kept import cache_folder
from piflow_cli.io.texts.names import user_path
from piflow_cli.metrics.detectors.features import FeatureSet

INCEPTION_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION_NAME = "inception-2015-12-05"
TIMEOUT_S = 60
PROBE_SIZE_PX = 64


class TorchScriptDetector:
    """Calls `module(uint8 (B, 3, H, W), return_features=True)`, and with `no_output_bias=True` for class posteriors."""

    def __init__(self, module: torch.jit.ScriptModule, *, name: str, device: torch.device, with_logits: bool) -> None:
        self.module = module
        self.name = name
        self.device = device
        self.with_logits = with_logits
        probe = torch.zeros(1, 3, PROBE_SIZE_PX, PROBE_SIZE_PX)
        try:
            self.feature_dim = self(probe).features.shape[1]
        except (RuntimeError, TypeError, AttributeError, IndexError) as error:
            raise ModelError(
                f"The TorchScript file of detector {name!r} cannot be called as StyleGAN's Inception is, with uint8 "
                f"pictures and return_features=True: {_first_line(error)}. Pass {INCEPTION_URL}."
            ) from error

    def title(self, metric: str) -> str:
        """The bare name for the known Inception; another file's name is added."""
        return metric if self.name == INCEPTION_NAME else f"{metric} ({self.name})"

    def described(self) -> str:
        """The file's own resizing, and its weights."""
        return f"resized by the file itself, weights {tensors_sha256(self.module.state_dict())[:12]}"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> FeatureSet:
        """Features of (B, C, H, W) pictures in [0, 1]; grey ones are repeated to three channels."""
        pixels = images.to(self.device).clamp(0, 1).mul(255).round().to(torch.uint8)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1).contiguous()  # (B, 3, H, W)
        features = self.module(pixels, return_features=True).float().cpu()  # (B, D)
        if not self.with_logits:
            return FeatureSet(features)
        posterior = self.module(pixels, no_output_bias=True).float().cpu()  # (B, K), a softmax already
        return FeatureSet(features, posterior.clamp(min=torch.finfo(torch.float32).tiny).log())


def load_torchscript(spec: str, *, device: str | torch.device, with_logits: bool = True) -> TorchScriptDetector:
    """Check and load a detector.

    Args:
        spec: a path or an http(s) URL, optionally followed by `#sha256=HEX`; without it the file must be the known
            Inception. Downloads are kept in ~/.cache/piflow.
        device: where it runs.
        with_logits: also give class posteriors; costs a second pass.

    Raises:
        ModelError: the file is missing, not the one expected, or not TorchScript of that signature.
    """
    location, _, fragment = spec.partition("#")
    sha256 = _parse_sha256(fragment, spec)
    path = download(location, sha256) if location.startswith(("http://", "https://")) else user_path(location)
    data = _read(path)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path} has sha256 {found}, but {sha256} is expected: it is damaged or another file, and was not loaded. "
            f"Download {INCEPTION_URL} again, or append #sha256={found} to the path if this is a detector you trust."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation of TorchScript; the file exists in no other form
            module = torch.jit.load(io.BytesIO(data), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as TorchScript: {_first_line(error)}. The detector is StyleGAN's TorchScript file, "
            f"not a pickle or a state dict; download {INCEPTION_URL}."
        ) from error
    name = INCEPTION_NAME if sha256 == INCEPTION_SHA256 else f"torchscript-{sha256[:12]}"
    return TorchScriptDetector(module, name=name, device=torch.device(device), with_logits=with_logits)


def download(url: str, sha256: str) -> Path:
    """The cached copy of `url`, fetched first if there is none; the file appears only whole and with the right hash.

    Raises:
        ModelError: there is no network, the cache cannot be written, or the content is another.
    """
    target = cache_folder() / f"{sha256[:12]}-{url.rsplit('/', 1)[-1] or 'detector.pt'}"
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == sha256:
        return target
    advice = (
        f"On a computer with network access download {INCEPTION_URL} (91 MB, sha256 {INCEPTION_SHA256}), copy it here "
        "and pass its path as the detector."
    )
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            data = response.read()
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ModelError(f"{url} gave a file of {len(data)} bytes with sha256 {found}, not {sha256}. {advice}")
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".download-", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise ModelError(f"Cannot download the detector {url}: {error}. {advice}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
    return target


def _parse_sha256(fragment: str, spec: str) -> str:
    if not fragment:
        return INCEPTION_SHA256
    value = fragment.removeprefix("sha256=").lower()
    if not fragment.startswith("sha256=") or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ModelError(f"the detector {spec!r} ends in {'#' + fragment!r}; allowed is #sha256= and 64 hex digits.")
    return value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"cannot read the detector {path}: {error.strerror or error}. Pass digits-cnn, emoji-cnn, pixels, the "
            f"path of inception-2015-12-05.pt, {INCEPTION_URL}, or a folder or hub id of a vision model."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
