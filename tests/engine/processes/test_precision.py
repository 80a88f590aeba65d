"""The loss scale of float16: what an overflow does to it, and that scaling changes no gradient."""

import pytest
import torch

from piflow_cli.engine.processes.precision import FIRST_SCALE, GROWTH_INTERVAL, Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["no", "bf16", "fp16"])
def test_scaling_and_unscaling_changes_no_gradient(name: str) -> None:
    precision = Precision(name, CPU)
    weight = torch.nn.Parameter(torch.tensor([1.5, -2.0]))
    precision.scaled((weight**3).sum()).backward()
    precision.unscale([weight])
    assert torch.equal(weight.grad, 3 * weight.detach() ** 2)  # scales are powers of two


def test_an_overflow_halves_the_scale_and_many_good_steps_double_it() -> None:
    precision = Precision("fp16", CPU)
    assert precision.advance(finite=False)
    assert precision.scale == FIRST_SCALE / 2
    for _ in range(GROWTH_INTERVAL):
        assert not precision.advance(finite=True)
    assert precision.scale == FIRST_SCALE
    restored = Precision("fp16", CPU)
    restored.load_state_dict(precision.state_dict())
    assert restored == precision


def test_an_overflow_that_no_scale_mends_is_the_networks() -> None:
    precision = Precision("fp16", CPU)
    blamed = [precision.advance(finite=False) for _ in range(20)]
    assert blamed[:16] == [True] * 16
    assert not blamed[-1]
    assert not Precision("bf16", CPU).advance(finite=False)


def test_float16_overflows_under_autocast_and_the_norm_says_so() -> None:
    precision = Precision("fp16", CPU)
    layer = torch.nn.Linear(4, 4)
    torch.nn.init.constant_(layer.weight, 300.0)
    with precision.autocast():
        output = layer(torch.full((1, 4), 300.0))
    assert output.dtype == torch.float16
    precision.scaled(output.float().sum()).backward()
    precision.unscale(layer.parameters())
    assert not torch.isfinite(torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0))
