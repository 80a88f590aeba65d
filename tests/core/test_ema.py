"""The moving average: its schedule, its state and the context that applies it."""

import pytest
import torch
from torch import nn

from piflow_cli.core.ema import EMA


def moved(parameter: nn.Parameter, value: float) -> None:
    with torch.no_grad():
        parameter.fill_(value)


@pytest.fixture
def parameter() -> nn.Parameter:
    return nn.Parameter(torch.zeros(2, 3))


def test_beta_is_the_power_function(parameter):
    ema = EMA([("p", parameter)], gamma=7)
    for step in (2, 10, 1000):
        assert ema.beta(step) == pytest.approx((1 - 1 / step) ** 8)


def test_the_average_is_a_copy_until_warmup_ends(parameter):
    ema = EMA([("p", parameter)], gamma=7, warmup_steps=3)
    for step, value in enumerate((1.0, 2.0, 3.0), start=1):
        moved(parameter, value)
        ema.update(step)
        assert torch.equal(ema.averages["p"], parameter.detach())
    moved(parameter, 7.0)
    ema.update(4)
    beta = (1 - 1 / 4) ** 8
    assert torch.allclose(ema.averages["p"], torch.full((2, 3), beta * 3 + (1 - beta) * 7))


def test_the_first_step_copies_without_warmup(parameter):
    ema = EMA([("p", parameter)], gamma=7)
    moved(parameter, 5.0)
    ema.update(1)
    assert torch.equal(ema.averages["p"], parameter.detach())


def test_the_profile_is_a_power_of_time(parameter):
    """Weights of past values go with t^gamma: the average of p_t = t tends to t (gamma + 1) / (gamma + 2)."""
    ema = EMA([("p", parameter)], gamma=7)
    for step in range(1, 2001):
        moved(parameter, float(step))
        ema.update(step)
    assert ema.averages["p"].mean().item() == pytest.approx(2000 * 8 / 9, rel=5e-3)


def test_averages_of_low_precision_parameters_are_float32():
    parameter = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    ema = EMA([("p", parameter)], gamma=7)
    moved(parameter, 1.0078125)  # the next bfloat16 number
    ema.update(50)
    average = ema.averages["p"]
    assert average.dtype == torch.float32
    assert ((average > 1) & (average < 1.0078125)).all()


def test_applied_swaps_and_restores(parameter):
    ema = EMA([("p", parameter)], gamma=7)
    moved(parameter, 3.0)
    with ema.applied():
        assert torch.equal(parameter, torch.zeros(2, 3))
    assert torch.equal(parameter, torch.full((2, 3), 3.0))


def test_applied_restores_after_an_error(parameter):
    ema = EMA([("p", parameter)], gamma=7)
    moved(parameter, 3.0)
    with pytest.raises(RuntimeError, match="sampling failed"), ema.applied():
        raise RuntimeError("sampling failed")
    assert torch.equal(parameter, torch.full((2, 3), 3.0))


def test_the_average_owns_its_memory_and_has_no_graph(parameter):
    ema = EMA([("p", parameter)], gamma=7)
    moved(parameter, 3.0)
    assert torch.equal(ema.averages["p"], torch.zeros(2, 3))
    assert not ema.averages["p"].requires_grad


def test_state_survives_a_round_trip(parameter):
    ema = EMA([("p", parameter)], gamma=7)
    moved(parameter, 2.0)
    ema.update(5)
    state = {name: average.clone() for name, average in ema.state_dict().items()}
    fresh = EMA([("p", parameter)], gamma=7)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.averages["p"], ema.averages["p"])
    moved(parameter, 9.0)
    for average in (ema, fresh):
        average.update(6)
    assert torch.equal(fresh.averages["p"], ema.averages["p"])
