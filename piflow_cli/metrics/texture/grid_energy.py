"""Grid energy: how much of pictures repeats from patch to patch, as coarsely rounded weights leave it."""
# B, N pictures, C, H, W picture, D features: 2 for each of 4 directions.

from dataclasses import dataclass

import torch
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import Detector, FeatureSet
from piflow_cli.metrics.metric import Features, score_of_features

MIN_PATCHES, MIN_PERIOD_PX = 4, 2
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Across, down and along both diagonals: (vertical, horizontal) in units of the patch frequency."""


def check_grid(period_px: tuple[int, int], size_px: tuple[int, int]) -> None:
    """Raise DataError for pictures in whose spectrum the patch frequency cannot be told from what is around it.

    Args:
        period_px: height and width of a patch.
        size_px: height and width of the pictures.
    """
    fits = all(
        not size % period and size // period >= MIN_PATCHES for size, period in zip(size_px, period_px, strict=True)
    )
    if not fits or min(period_px) < MIN_PERIOD_PX:
        (height, width), (down, across) = size_px, period_px
        raise DataError(
            f"grid-energy is of pictures of at least {MIN_PATCHES}x{MIN_PATCHES} whole patches, each of "
            f"{MIN_PERIOD_PX}x{MIN_PERIOD_PX} pixels or more; these have {width}x{height} pixels in patches of "
            f"{across}x{down}: leave it out, or draw larger ones"
        )


def line_powers(images: Tensor, period_px: tuple[int, int]) -> Tensor:
    """Power at the patch frequency in each direction, and the mean power beside it (B, 8).

        P(v, u) = sum over channels of |DFT of (picture - its mean) x Hann window|^2 / sum of window^2

    A Hann window spreads what repeats with the patch over no more than the next bin, so that what is around it are bins
    from the second on, to a quarter of the frequency below and above.

    Args:
        images: (B, C, H, W).
        period_px: height and width of a patch.

    Returns:
        (B, 8): at the frequency by `DIRECTIONS`, then around it by them.

    Raises:
        DataError: pictures of too few patches.
    """
    height, width = images.shape[2:]
    check_grid(period_px, (height, width))
    window = _hann(height)[:, None] * _hann(width)  # (H, W)
    pictures = images.double()
    centred = (pictures - pictures.mean(dim=(2, 3), keepdim=True)) * window
    power = torch.fft.fft2(centred).abs().square().sum(dim=1) / window.square().sum()  # (B, H, W)
    rows, columns = height // period_px[0], width // period_px[1]
    at, around = [], []
    for down, across in DIRECTIONS:
        far = max(2, min(n for n, step in ((rows, down), (columns, across)) if step) // 4)
        offsets = torch.tensor([d for d in range(-far, far + 1) if abs(d) >= 2])
        at.append(power[:, down * rows % height, across * columns % width])
        beside = power[:, down * (rows + offsets) % height, across * (columns + offsets) % width]  # (B, 2 (far - 1))
        around.append(beside.mean(dim=1))
    return torch.stack([*at, *around], dim=1)


def grid_energy(powers: Tensor) -> float:
    """Mean over directions of all pictures' power at the patch frequency, over their power around it.

    Args:
        powers: (N, D) of `line_powers`.

    Returns:
        1 where nothing repeats with the patch and power is even (white noise), less where it falls with frequency, as
        in photos of few patches; more, without a bound, where something repeats. What counts is the difference to
        pictures of the same noise.

    Raises:
        DataError: pictures without any structure.

    Source: ours. A periodogram's line over its neighbourhood is the test of A. Schuster (Terr. Magn. 3, 1898).
    """
    at, around = powers.double().sum(dim=0).chunk(2)
    if not bool((around != 0).all()):
        raise DataError(
            "grid-energy needs pictures with some structure, and these are flat: there is nothing to compare"
        )
    return (at / around).mean().item()


def _hann(count: int) -> Tensor:
    """The periodic window (count,)."""
    return torch.hann_window(count, periodic=True, dtype=torch.float64)


@dataclass(frozen=True)
class GridDetector:
    """Gives the powers (B, 8) of pictures.

    Args:
        period_px: height and width of a patch.
    """

    period_px: tuple[int, int]
    feature_dim, with_logits = 2 * len(DIRECTIONS), False

    @property
    def name(self) -> str:
        """With the patch's width and height."""
        return "grid-{1}x{0}".format(*self.period_px)

    def title(self, metric: str) -> str:
        """Alone: no network is part of it."""
        return metric

    def described(self) -> str:
        """By the patch."""
        return "power at the frequency of patches of {1}x{0} px over that around it".format(*self.period_px)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> FeatureSet:
        """Powers of (B, C, H, W) pictures in [0, 1].

        Raises:
            DataError: pictures of too few patches.
        """
        return FeatureSet(line_powers(images, self.period_px).float())


@dataclass(frozen=True)
class GridView:
    """In a run's panel, the one that looks for the grid; the run's detector has no part in it."""

    period_px: tuple[int, int]

    def __call__(self, detector: Detector) -> GridDetector:  # noqa: ARG002  (one signature for all views)
        """The detector of the grid."""
        return GridDetector(self.period_px)


METRIC = score_of_features(
    "grid-energy",
    grid_energy,
    better="lower",
    of_patches=lambda period_px: Features(view=GridView(period_px), frames="mean"),
    of_pixels=True,
    takes="both",
)
