"""Grid energy of pictures whose spectrum is known: noise, waves and grids of every period."""

import math

import pytest
import torch
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.metric import metric_of
from piflow_cli.metrics.panel import Panel
from piflow_cli.metrics.texture.grid_energy import DIRECTIONS, GridDetector, grid_energy, line_powers

PERIOD, SIZE = 8, 64
SQUARE = (PERIOD, PERIOD)


def noise(count: int, *, height: int = SIZE, width: int = SIZE, std: float = 1.0, seed: int = 0) -> Tensor:
    return std * torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed)).double()


def wave(down: float, across: float, *, height: int = SIZE, width: int = SIZE, phase: float = 0.3) -> Tensor:
    """A cosine of `down` and `across` periods over the picture, (1, 1, H, W)."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return torch.cos(2 * math.pi * (down * y + across * x).double() + phase)[None, None]


def energy(images: Tensor, period: tuple[int, int] = SQUARE) -> float:
    return grid_energy(line_powers(images, period))


def test_white_noise_has_one_and_its_power_is_its_variance() -> None:
    powers = line_powers(noise(500, std=0.2), SQUARE)
    assert grid_energy(powers) == pytest.approx(1, abs=0.08)
    torch.testing.assert_close(powers.mean(dim=0), torch.full((8,), 3 * 0.04).double(), rtol=0.15, atol=0)


@pytest.mark.parametrize("direction", range(len(DIRECTIONS)))
def test_a_wave_in_noise_has_what_the_window_leaves_of_it(direction: int) -> None:
    """Its power at the bin is (a sum(w) / 2)^2 / sum(w^2), with means of 1/4 of w and 9/64 of w^2, in each channel."""
    amplitude, std = 0.05, 0.1
    down, across = (SIZE // PERIOD * step for step in DIRECTIONS[direction])
    powers = line_powers(noise(500, std=std) + amplitude * wave(down, across), SQUARE)
    expected = 1 + amplitude**2 * SIZE**2 / (9 * std**2)
    ratios = powers[:, :4].sum(dim=0) / powers[:, 4:].sum(dim=0)
    assert ratios[direction].item() == pytest.approx(expected, rel=0.1)
    assert [ratios[i].item() for i in range(4) if i != direction] == pytest.approx([1] * 3, abs=0.2)
    assert grid_energy(powers) == pytest.approx(1 + (expected - 1) / 4, rel=0.07)


@pytest.mark.parametrize("periods", [8.0, 16.0, 4.0, 5.0])
def test_only_what_repeats_with_the_patch_counts(periods: float) -> None:
    """Of the patch, of half a patch, of two, and of another length: 8 periods are those of patches."""
    found = energy(noise(200, std=0.1) + 0.1 * wave(periods, 0) + 0.1 * wave(0, periods))
    assert found > 10 if periods == 8 else found < 1.1


def test_whatever_is_in_the_patch_its_repetition_is_seen() -> None:
    """A checkerboard of half patches has nothing across and down, and all of it along the diagonals."""
    board = torch.ones(PERIOD, PERIOD).double()
    board[: PERIOD // 2, PERIOD // 2 :] = board[PERIOD // 2 :, : PERIOD // 2] = -1
    tiles = board.repeat(SIZE // PERIOD, SIZE // PERIOD)[None, None]
    ratios = (powers := line_powers(noise(300, std=0.3) + 0.1 * tiles, SQUARE)).sum(dim=0)
    across, down, rising, falling = ratios[:4] / ratios[4:]
    assert (across < 1.3, down < 1.3, rising > 5, falling > 5) == (True,) * 4
    assert grid_energy(powers) > 3
    blocks = noise(300, height=SIZE // PERIOD, width=SIZE // PERIOD).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert energy(blocks) < 0.2, "blocks that differ do not repeat: their spectrum is 0 at the patch frequency"


def test_contrast_brightness_and_place_change_nothing() -> None:
    images = noise(20, std=0.1) + 0.05 * wave(8, 8)
    whole = energy(images)
    assert energy(images * 0.37 + 0.2) == pytest.approx(whole, rel=1e-9)
    moved = energy(noise(500, std=0.1) + 0.05 * wave(8, 8, phase=2.1))
    assert moved == pytest.approx(energy(noise(500, std=0.1) + 0.05 * wave(8, 8)), rel=0.1)


def test_four_patches_a_side_are_enough() -> None:
    images = noise(400, std=0.1)
    assert energy(images, (16, 16)) == pytest.approx(1, abs=0.15)
    assert energy(images + 0.1 * wave(4, 0), (16, 16)) > 10
    assert energy(images + 0.1 * wave(0, 8), (16, 16)) == pytest.approx(1, abs=0.15)


def test_patches_and_pictures_need_not_be_square() -> None:
    images = noise(300, height=48, width=128) + 0.4 * wave(12, 0, height=48, width=128)
    assert energy(images, (4, 16)) > 3
    assert energy(images, (2, 16)) == pytest.approx(1, abs=0.15)


def test_a_panel_looks_for_the_grid_without_its_detector() -> None:
    metric = metric_of("grid-energy").on_patches((4, 8))
    seated = Panel.of([metric], load_detector("pixels"), device=torch.device("cpu"))
    images = noise(3, height=32, width=64).float()
    seen = seated.look(images, None, [metric.reads])[metric.reads].features
    torch.testing.assert_close(seen, line_powers(images, (4, 8)).float())
    assert seated.title(metric, "grid-energy") == "grid-energy"
    assert seated.names([metric]) == {"grid-energy": "grid-8x4"}
    assert "patches of 8x4 px" in seated.described([metric])["grid-8x4"]
    assert metric_of("fid").on_patches((4, 8)) == metric_of("fid")


@pytest.mark.parametrize(("period", "size"), [((16, 16), (48, 64)), ((8, 8), (64, 60)), ((1, 1), (64, 64))])
def test_pictures_of_too_few_patches_are_refused(period: tuple[int, int], size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=f"these have {size[1]}x{size[0]} pixels in patches of {period[1]}x{period[0]}"):
        GridDetector(period)(torch.zeros(1, 3, *size))


def test_flat_pictures_have_no_grid_energy() -> None:
    with pytest.raises(DataError, match="these are flat"):
        energy(torch.full((2, 3, SIZE, SIZE), 0.5))


def test_it_reads_no_network() -> None:
    with pytest.raises(DataError, match="write --metric grid-energy without =owner/name"):
        metric_of("grid-energy=owner/name")
