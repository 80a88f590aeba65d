"""Floors of policies: on trajectories whose answer is known, and of an embedded teacher."""

import json
from pathlib import Path

import pytest
import torch
from cli_runner import run

from piflow_cli import registry
from piflow_cli.core.schedule import Shift
from piflow_cli.engine.benchmark.floors.floors import Floor, Recording, cheapest, find_floors
from piflow_cli.engine.benchmark.floors.source import limits_of
from piflow_cli.errors import DataError, ModelError
from piflow_cli.policies.dx import DX
from piflow_cli.policies.gmflow.family import GMFlow

STEPS = 64


def straight(*, bend: float = 0.0) -> Recording:
    """Trajectories to x_0 that bend on the way: x_0 moves with the noise level, the same for all states of a sample."""
    generator = torch.Generator().manual_seed(0)
    noise, x_0 = torch.randn((2, 3, 2, 4, 4), generator=generator)
    shift, states = Shift(1.0), [noise]
    for step in range(STEPS):
        sigma, following = (1 - i / STEPS for i in (step, step + 1))
        u = (states[-1] - (x_0 + bend * sigma * x_0.flip(0))) / sigma
        states.append(states[-1] + u * (following - sigma))
    return Recording(torch.stack(states), shift)


@pytest.fixture
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GMFlow, "sizes", ("num_components", (1, 4)))
    monkeypatch.setattr(DX, "sizes", ("num_points", (2,)))


@pytest.mark.usefixtures("few_sizes")
def test_a_straight_way_costs_no_policy_anything() -> None:
    for row in find_floors(straight(), nfe=[1, 4], iterations=30):
        several = row.policy == "gmflow" and row.size > 1  # parts that begin apart have to come together
        assert max(row.errors.values()) < (1e-3 if several else 1e-4)


@pytest.mark.usefixtures("few_sizes")
def test_one_step_misses_what_bends_and_policies_follow_it() -> None:
    rows = {(row.policy, row.size, row.nfe, row.window): row for row in find_floors(straight(bend=1.0), nfe=[1, 2])}
    euler = {nfe: rows["euler", 0, nfe, 0].errors[128] for nfe in (1, 2)}
    assert euler[1] > euler[2] > 0.01
    dx = rows["dx", 2, 1, 0]
    assert dx.errors[128] < 0.01 * euler[1]  # x_0 is a line in time here, which two points hold
    assert dx.errors[128] < dx.errors[16]  # of the steps of the rollout alone
    assert dx.channels == 4
    assert rows["gmflow", 4, 1, 0].errors[128] < 0.3 * euler[1]


def floor(nfe: int, channels: int, error: float, *, size: int = 1) -> Floor:
    return Floor("dx", size, nfe, 0, channels, {16: 1.0, 128: error})


def test_cheapest_has_the_fewest_evaluations_then_channels() -> None:
    rows = [floor(1, 4, 0.1), floor(2, 8, 0.001), floor(2, 4, 0.002), floor(4, 1, 0.0), floor(1, 1, 0.0, size=0)]
    assert cheapest(rows, 0.01) == rows[2]
    assert cheapest(rows, 0.0015) == rows[1]
    assert cheapest(rows[:1], 0.01) is None


def test_what_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(DataError, match=r"nfe is 3; .* divide 64"):
        find_floors(straight(), nfe=[3])
    with pytest.raises(DataError, match="tolerance is 0"):
        limits_of("digits-1nfe", tolerance=0.0)
    with pytest.raises(DataError, match=r"nfe is 5; .* divide 64"):  # before the student is looked for
        limits_of("no-such-student", nfe=[1, 5])
    with pytest.raises(ModelError, match="no-such"):
        limits_of("no-such-student")


def test_limits_of_an_embedded_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "names", lambda kind: ["dx"] if kind == "policy" else list(registry.ENTRIES[kind]))
    monkeypatch.setattr(DX, "sizes", ("num_points", (5,)))
    process = run("benchmark", "--limits", "digits-2nfe", "--nfe", "1,2", "--json", "limits.json", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "cheapest within 0.001: dx of size 5 at 1 NFE" in process.stdout
    told = json.loads((tmp_path / "limits.json").read_text())
    assert [(row["policy"], row["nfe"], row["window"]) for row in told["rows"]] == [
        ("euler", 1, 0),
        ("euler", 2, 0),
        *(("dx", nfe, window) for nfe in (1, 2) for window in (0, 3)),
    ]
    assert told["rows"][0]["errors"]["128"] > 0.05
