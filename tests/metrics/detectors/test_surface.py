"""The surface of a picture: what it says of flat paper, of an edge of known height, of noise and of colour."""

import math

import pytest
import torch

from piflow_cli.metrics.detectors.surface import SURFACE_DIM, surface

STRENGTHS = (2, 8, 32)
DETAIL = SURFACE_DIM - 9


def test_white_paper_has_no_detail_and_is_white() -> None:
    found = surface(torch.ones(2, 3, 64, 64))
    assert found.shape == (2, SURFACE_DIM) == (2, 36)
    assert found[:, :DETAIL].abs().max() < 1e-4
    assert torch.equal(found[:, DETAIL:], torch.ones(2, 9))


def test_paper_that_is_not_quite_white_is_seen_by_its_distance() -> None:
    paper = torch.ones(1, 3, 16, 16)
    paper[:, 1] = 250 / 255
    found = surface(paper)[0, DETAIL:].view(3, 3)  # strength, colour
    for strength, (red, green, blue) in zip(STRENGTHS, found.tolist(), strict=True):
        assert (red, blue) == (1, 1)
        assert green == pytest.approx(math.exp(-5 / strength), rel=1e-4)


def test_a_dot_is_a_detail_of_its_height() -> None:
    """One pixel of another grey: it keeps 1 - (6/16)^2 of itself, the 24 around it lose their binomial share."""
    height = 20 / 255
    dot = torch.full((1, 3, 16, 16), 0.5)
    dot[:, :, 8, 8] += height
    line = torch.tensor([1, 4, 6, 4, 1]).double() / 16
    share = line[:, None] * line
    share[2, 2] -= 1
    for place, strength in enumerate(STRENGTHS):
        wanted = torch.tanh(share.abs() * height * 255 / strength).sum().item() / 256
        found = surface(dot)[0, 3 * place : 3 * place + 3]
        assert found[0].item() == pytest.approx(wanted, rel=1e-4)
        assert found[1:].abs().max() < 1e-6, "grey has no colour"


def test_what_is_limited_tells_faint_noise_beside_a_strong_edge() -> None:
    """Unlimited detail would rise by 2% here, the faintest strength by half."""
    drawing = torch.ones(1, 3, 64, 64)
    drawing[:, :, 20:44, 20:44] = 0
    noise = 0.01 * torch.randn(drawing.shape, generator=torch.Generator().manual_seed(0))
    before, after = surface(drawing)[0], surface(drawing + noise)[0]
    assert after[0] > 3 * before[0]
    assert after[6] < 1.6 * before[6]


def test_colour_alone_is_seen_in_colour() -> None:
    drawing = torch.full((1, 3, 32, 32), 0.5)
    drawing[:, 0, :, ::2] += 0.1
    drawing[:, 1, :, ::2] -= 0.1
    found = surface(drawing)[0, :9].view(3, 3)  # strength; lightness, red-green, blue-green
    assert found[:, 0].max() < 1e-4
    assert found[:, 1].min() > 0.3
    assert (found[:, 1] > found[:, 2]).all()
