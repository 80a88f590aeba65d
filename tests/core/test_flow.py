"""The conventions of flow matching: what is a state, a velocity and a step."""

import pytest
import torch
from parity import assert_close

from piflow_cli.core.flow import (
    diffuse,
    euler_step,
    match_dims,
    randn_like_seeded,
    single_or_double,
    velocity_to_x0,
    x0_to_velocity,
)

SHAPES = [(3, 2, 4, 5), (3, 2, 2, 4, 5)]


def draw(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_0, noise = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return x_0, noise, torch.tensor([1.0, 0.4, 1e-3], dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_velocity_is_noise_minus_data(shape):
    x_0, noise, sigma = draw(shape)
    x_t = diffuse(x_0, noise, sigma)
    assert_close(x0_to_velocity(x_t, x_0, sigma), noise - x_0, rtol=1e-10)
    assert_close(velocity_to_x0(x_t, noise - x_0, sigma), x_0, rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_along_a_straight_path_is_exact(shape):
    x_0, noise, sigma = draw(shape)
    sigma_next = sigma / 3
    stepped = euler_step(diffuse(x_0, noise, sigma), noise - x_0, sigma, sigma_next)
    assert_close(stepped, diffuse(x_0, noise, sigma_next), rtol=1e-12)


def test_diffusion_ends_at_data_and_at_noise():
    x_0, noise, _ = draw((3, 2, 4, 5))
    assert torch.equal(diffuse(x_0, noise, torch.zeros(3)), x_0)
    assert torch.equal(diffuse(x_0, noise, torch.ones(3)), noise)


def test_sigma_is_floored_where_it_divides():
    x_t, x_0 = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    assert x0_to_velocity(x_t, x_0, torch.zeros(1), eps=1e-2).item() == pytest.approx(100)


def test_match_dims_keeps_the_batch_first():
    assert match_dims(torch.ones(3), torch.ones(3, 2, 4, 5)).shape == (3, 1, 1, 1)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_low_precision_is_raised_to_single(dtype, expected):
    assert single_or_double(torch.ones(1, dtype=dtype)).dtype == expected


def test_noise_follows_its_generator():
    first, again, other = (randn_like_seeded((2, 3), torch.Generator().manual_seed(seed), "cpu") for seed in (1, 1, 2))
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_generator_a_row_makes_rows_independent_of_their_batch():
    def noise(seeds):
        return randn_like_seeded((len(seeds), 3, 4), [torch.Generator().manual_seed(seed) for seed in seeds], "cpu")

    whole = noise([1, 2, 3])
    assert torch.equal(whole[1:], noise([2, 3]))
    assert torch.equal(whole[0], randn_like_seeded((3, 4), torch.Generator().manual_seed(1), "cpu"))
    with pytest.raises(ValueError, match="2 generators for 3 rows"):
        randn_like_seeded((3, 4), [torch.Generator(), torch.Generator()], "cpu")
