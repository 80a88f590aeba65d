"""Precision and recall by matrix products: the numbers of the plain distances, also where they are hard to tell."""

import pytest
import torch
from torch import Tensor

from piflow_cli.metrics import precision_recall
from piflow_cli.metrics.precision_recall import fraction_covered, neighbour_radii

PLAIN = {"compute_mode": "donot_use_mm_for_euclid_dist"}


def draw(count: int, *, seed: int) -> Tensor:
    return torch.randn(count, 24, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_radii(features: Tensor, num_neighbours: int) -> Tensor:
    return torch.cdist(features, features, **PLAIN).kthvalue(num_neighbours + 1, dim=1).values


def plain_fraction(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    return (torch.cdist(points, centres, **PLAIN) <= radii).any(dim=1).double().mean().item()


SIDES = {
    "clouds": (draw(300, seed=0) * 0.9, draw(300, seed=1)),
    "far from the origin": (draw(300, seed=0) * 0.9 + 1e4, draw(300, seed=1) + 1e4),
    "copies": (draw(60, seed=0).repeat(5, 1), draw(300, seed=0)),
    "on a lattice, where distances tie": (draw(300, seed=0).round(), draw(300, seed=1).round()),
}


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("num_neighbours", [1, 3])
def test_numbers_are_those_of_plain_distances(sides: str, num_neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_recall, "ROWS_AT_ONCE", 128)
    fake, real = SIDES[sides]
    for points, centres in ((fake, real), (real, fake)):
        radii = neighbour_radii(centres, num_neighbours)
        torch.testing.assert_close(radii, plain_radii(centres, num_neighbours), rtol=1e-12, atol=0)
        assert fraction_covered(points, centres, radii) == plain_fraction(points, centres, radii)


def test_a_point_on_the_surface_is_inside_and_one_beyond_is_not() -> None:
    centre = torch.zeros(1, 24)
    points = torch.zeros(2, 24, dtype=torch.float64)
    points[0, 0], points[1, 0] = 2.0, 2.0 * (1 + 1e-15)
    assert points[1, 0] > 2.0
    assert fraction_covered(points, centre, torch.tensor([2.0])) == 0.5
