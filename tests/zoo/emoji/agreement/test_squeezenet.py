"""SqueezeNet is read from a pickle of arrays, and of nothing else, and computes what its paper draws."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from piflow_cli.errors import PiflowError
from piflow_cli.zoo.emoji.build.agreement.networks import BLUE_GREEN_RED, SqueezeNet
from piflow_cli.zoo.emoji.build.agreement.squeezenet import Fire, from_pickle

FIRES = [(2, 64, 16), (3, 128, 16), (4, 128, 32), (5, 256, 32), (6, 256, 48), (7, 384, 48), (8, 384, 64), (9, 512, 64)]
"""Number, channels and squeezed channels, as table 1 of the paper has them."""


def layers() -> dict[str, list[np.ndarray]]:
    generator = np.random.default_rng(0)

    def layer(side: int, before: int, after: int) -> list[np.ndarray]:
        kernel = generator.normal(size=(side, side, before, after)) * (2 / (side * side * before)) ** 0.5
        return [kernel.astype(np.float32), generator.normal(size=after).astype(np.float32) * 0.1]

    found = {"conv1": layer(3, 3, 64), "conv10": layer(1, 512, 1000)}
    for number, channels, squeezed in FIRES:
        found[f"fire{number}/squeeze1x1"] = layer(1, channels, squeezed)
        found[f"fire{number}/expand1x1"] = layer(1, squeezed, 4 * squeezed)
        found[f"fire{number}/expand3x3"] = layer(3, squeezed, 4 * squeezed)
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.pkl"
    path.write_bytes(pickle.dumps(layers(), protocol=4))
    return path


def test_it_is_the_network_of_its_paper(file: Path) -> None:
    """Layer by layer from the arrays, with kernels turned the way that convolutions here want them."""
    weights = {name: [torch.from_numpy(array) for array in arrays] for name, arrays in layers().items()}

    def convolved(maps: torch.Tensor, name: str, **how: int) -> torch.Tensor:
        kernel, bias = weights[name]
        return functional.conv2d(maps, torch.einsum("hwio->oihw", kernel), bias, **how).clamp(min=0)

    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = convolved(images, "conv1", stride=2)
    for number, _, _ in FIRES:
        if number in (2, 4, 6):
            maps = functional.max_pool2d(maps, 3, 2, ceil_mode=True)
        narrow = convolved(maps, f"fire{number}/squeeze1x1")
        wide = [convolved(narrow, f"fire{number}/expand{side}x{side}", padding=side // 2) for side in (1, 3)]
        maps = torch.cat(wide, dim=1)
    found = from_pickle(file)(images)
    assert found.shape == maps.shape == (2, 512, 3, 3)
    assert torch.allclose(found, maps, atol=1e-4)


def test_pictures_come_as_blue_green_red_less_their_means(file: Path) -> None:
    net = object.__new__(SqueezeNet)
    net.net = from_pickle(file)
    colour = torch.tensor(BLUE_GREEN_RED).flip(0).view(1, 3, 1, 1).expand(1, 3, 64, 64) / 255
    nothing = net.net(torch.zeros(1, 3, 128, 128)).mean(dim=(2, 3))
    assert torch.allclose(net(colour).features, nothing, atol=1e-3)
    red, blue = torch.zeros(2, 1, 3, 64, 64)
    red[:, 0], blue[:, 2] = 1, 1
    assert not torch.allclose(net(red).features, net(blue).features, atol=1e-2)


def test_a_fire_module_widens_to_eight_times_what_it_narrows_to() -> None:
    assert Fire(96, 16)(torch.zeros(1, 96, 5, 5)).shape == (1, 128, 5, 5)


def test_a_pickle_of_anything_else_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "harm"),)

    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"conv1": Harm()}))
    with pytest.raises(PiflowError, match=r"mkdir, where arrays alone are read"):
        from_pickle(path)
    assert not (tmp_path / "harm").exists()
