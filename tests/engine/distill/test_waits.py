"""What a training step costs the host: waits for the device and copies to it, counted on a stand-in for one."""

from pathlib import Path

import pytest
import torch
from tiny_runs import FAMILIES, settings

from piflow_cli.core.interfaces import Policy
from piflow_cli.core.rollout import euler_rollout, mean_velocity
from piflow_cli.core.schedule import Shift
from piflow_cli.engine.distill.resume.run_folder import RunFolder, Start
from piflow_cli.engine.distill.trainer import Trainer
from piflow_cli.engine.processes.together import Together
from piflow_cli.policies.dx import DXPolicy
from piflow_cli.policies.gmflow.policy import mixture_policy
from piflow_cli.preset import load_preset
from piflow_cli.speed.crossings import META, Crossings, to_stand_in

SHIFT = Shift(3.2)
BATCH, CHANNELS, SIZE = 3, 4, 8
MAX_SENDS = 26
"""Copies to the device an evaluation of the student: for M = 4 visited states, 6 a state and 2 of the source."""


def gmflow(components: int) -> Policy:
    x_src = torch.empty(BATCH, CHANNELS, SIZE, SIZE, device=META)
    means = torch.empty(BATCH, components, CHANNELS, SIZE, SIZE, device=META)
    logweights = torch.empty(BATCH, components, 1, SIZE, SIZE, device=META)
    return mixture_policy(means, logweights, torch.empty(BATCH, device=META), x_src, torch.ones(BATCH, device=META))


def dx() -> Policy:
    points = torch.empty(BATCH, 10, CHANNELS, SIZE, SIZE, device=META)
    return DXPolicy(points, torch.ones(BATCH, device=META), segment_size=0.5, shift=SHIFT)


POLICIES = {"gmflow, few components": lambda: gmflow(2), "gmflow, many components": lambda: gmflow(8), "dx": dx}
SPANS = {"equal": (0.5, 0.5, 0.5), "ragged": (0.9, 0.3, 0.6)}


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
def test_a_rollout_sends_one_table_and_never_waits(make: object, spans: tuple[float, ...]) -> None:
    """Spans and counts are found on the host; what the device needs of them goes there at one go."""
    policy, x = make(), torch.empty(BATCH, CHANNELS, SIZE, SIZE, device=META)
    tau_to = torch.tensor(spans, dtype=torch.float64)
    with Crossings() as crossings:
        policy.rollout(x, torch.ones(BATCH, dtype=torch.float64), tau_to, shift=SHIFT, total_substeps=32)
    assert crossings.reads == []
    assert len(crossings.sends) == 1, crossings.sends


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
def test_a_window_and_the_generic_rollout_never_wait(make: object) -> None:
    policy, x = make(), torch.empty(BATCH, CHANNELS, SIZE, SIZE, device=META)
    tau_from, tau_to = torch.ones(BATCH).double(), torch.tensor(SPANS["ragged"]).double()
    with Crossings() as crossings:
        mean_velocity(policy, x, tau_from, tau_to, shift=SHIFT, total_substeps=32)
        euler_rollout(policy, x, tau_from, tau_to, shift=SHIFT, total_substeps=8)
    assert crossings.reads == []


@pytest.fixture
def trainer(request: pytest.FixtureRequest, tmp_path: Path) -> Trainer:
    """A run after its first step, with all that its steps work with on the stand-in."""
    changes = {"training.batch_size": 4, "training.micro_batch_size": 4}
    preset = load_preset(FAMILIES[request.param][0], settings(tmp_path, request.param, **changes))
    run = RunFolder(tmp_path / "run")
    run.open(preset, sources={}, resume=True, needed_bytes=0)
    how = {"start": Start(), "together": Together(), "device": torch.device("cpu"), "strategy": "ddp"}
    made = Trainer(preset, run, **how, on_event=None)
    made._step()
    for module in {id(module): module for module in (made.student, made.teacher.module)}.values():
        to_stand_in(module)
    made.ema.averages = {name: average.to(META) for name, average in made.ema.averages.items()}
    for state in (state for optimizer in made.optimizers for state in optimizer.state.values()):
        state |= {key: value.to(META) for key, value in state.items() if value.ndim}
    made.device = made.teacher.space.device = META
    if request.param == "qwen":
        made.teacher.space.set_null_condition(made.teacher.space.null_condition(1))
    yield made
    made.writer.close()
    run.close()


@pytest.mark.parametrize("trainer", FAMILIES, indirect=True)
def test_a_step_waits_for_the_device_once(trainer: Trainer) -> None:
    """The loss and the gradient norm are read at one go; nothing else is, in whatever part of a step.

    DiT takes pictures, FLUX and Qwen-Image (which is guided) walk from noise by four segments of four states.
    """
    with Crossings() as crossings:
        trainer._step()
    assert len(crossings.reads) == 1, crossings.reads
    assert "distill/trainer.py" in crossings.reads[0]
    segments = trainer.preset.objective.num_losses(trainer.preset.sampling, has_images=trainer.data.has_images)
    assert len(crossings.sends) <= MAX_SENDS * segments, crossings.sends


def test_the_stand_in_counts_what_makes_a_host_wait() -> None:
    value, host = torch.ones(3, device=META), torch.ones(3)
    with Crossings() as crossings:
        for read in (lambda: value[0].item(), lambda: bool(value[0] > 0), value.tolist, value.cpu):
            read()
        value.copy_(host)
        host.to(META)
        assert (host.sum().item(), host.tolist()) == (3, [1, 1, 1])
    assert (len(crossings.reads), len(crossings.sends)) == (4, 2)
    with Crossings() as crossings, pytest.raises(NotImplementedError):
        value[value > 0]
    assert len(crossings.reads) == 1
