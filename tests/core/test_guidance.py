"""Classifier-free guidance inside an interval, against the published numbers and its definition."""

import re

import pytest
import torch
from parity import assert_close, load, out

from piflow_cli.core.guidance import guide, guided_velocity

CASES = sorted(key.removeprefix("out/") for key in load("guidance")[0] if "interval" in key)


@pytest.mark.parametrize("case", CASES)
def test_guidance_agrees_with_the_published_code(case):
    tensors, _ = load("guidance")
    low, high, orthogonal, scale = map(
        float, re.fullmatch(r"interval([\d.]+)-([\d.]+)_orth([\d.]+)_scale([\d.]+)", case).groups()
    )
    guided = guide(
        tensors["in/pos"],
        tensors["in/neg"],
        tensors["in/t"],
        scale=scale,
        interval=(low, high),
        orthogonal=orthogonal,
        x_t=tensors["in/x_t"],
    )
    assert_close(guided, out(tensors, case))


def test_scale_one_is_the_condition_alone():
    tensors, _ = load("guidance")
    guided = guide(tensors["in/pos"], tensors["in/neg"], tensors["in/t"], scale=1.0)
    assert_close(guided, out(tensors, "scale1_pos_only"))


def test_both_ends_of_the_interval_are_inside():
    sigma = torch.tensor([0.1, 0.2, 0.5, 0.6])
    guided = guide(torch.ones(4, 1, 1, 1), torch.zeros(4, 1, 1, 1), sigma, scale=3.0, interval=(0.2, 0.5))
    assert guided.flatten().tolist() == [1.0, 3.0, 3.0, 1.0]


def test_the_orthogonal_bias_has_no_part_along_x_0():
    tensors, _ = load("guidance")
    u, x_t, sigma = tensors["in/pos"], tensors["in/x_t"], tensors["in/t"]
    bias = guide(u, tensors["in/neg"], sigma, scale=4.0, orthogonal=1.0, x_t=x_t) - u
    x_0 = x_t - sigma[:, None, None, None] * u
    along = (bias * x_0).flatten(1).sum(1) / x_0.flatten(1).norm(dim=1)
    assert_close(along, torch.zeros_like(along), atol=1e-4)


def test_orthogonal_guidance_asks_for_the_state():
    with pytest.raises(ValueError, match="needs x_t"):
        guide(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.ones(1), scale=2.0, orthogonal=0.5)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.7), (0.9, 0.95)])
@pytest.mark.parametrize("orthogonal", [0.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_samples_inside_the_interval_take_a_second_row(
    interval: tuple[float, float], orthogonal: float, dtype: torch.dtype
) -> None:
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.2, 0.3, 0.5, 0.8], dtype=dtype)
    condition = torch.tensor([1.0, 2.0, 3.0, 4.0])
    rows = []

    def evaluate(x: torch.Tensor, sigma: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        assert sigma.dtype == x.dtype
        return x * condition.view(-1, 1, 1, 1) + sigma.view(-1, 1, 1, 1)

    options = {"scale": 3.0, "orthogonal": orthogonal, "interval": interval}

    def velocity(*, every_row: bool) -> torch.Tensor:
        def with_null(c: torch.Tensor, rows: list[int]) -> torch.Tensor:
            return torch.cat([c, c.new_zeros(len(rows))])

        how = options | {"with_null": with_null, "every_row": every_row}
        return guided_velocity(evaluate, x, sigma, condition, **how)

    found, everywhere = velocity(every_row=False), velocity(every_row=True)
    low, high = interval
    assert rows == [4 + sum(low <= value <= high for value in (0.2, 0.3, 0.5, 0.8)), 8]
    assert_close(everywhere, found)
    u_cond, u_uncond = (evaluate(x, sigma.float(), c) for c in (condition, torch.zeros(4)))
    assert_close(found, guide(u_cond, u_uncond, sigma.float(), x_t=x, **options))


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 3, 2, 4, 6)])
def test_normed_guidance_keeps_the_norm_of_every_patch(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    u_cond, u_uncond = (torch.randn(shape, generator=generator) for _ in range(2))
    sides = (1, 2, 2)[-(len(shape) - 2) :]
    sigma = torch.full((2,), 0.5)
    plain = guide(u_cond, u_uncond, sigma, scale=4.0)
    normed = guide(u_cond, u_uncond, sigma, scale=4.0, normed=sides)
    for corner in ((0, 0), (2, 4)):
        patch = (slice(None), slice(None), *(0,) * (len(shape) - 4), *(slice(start, start + 2) for start in corner))
        norms = [u[patch].flatten(1).norm(dim=1) for u in (u_cond, normed, plain)]
        torch.testing.assert_close(norms[1], norms[0])
        ratio = (norms[0] / norms[2]).view(2, *[1] * (u_cond[patch].ndim - 1))
        torch.testing.assert_close(normed[patch], plain[patch] * ratio)
