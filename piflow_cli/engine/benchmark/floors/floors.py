"""The error that no training takes away: how well policies can follow a teacher's own trajectories, without a network.

A few trajectories of the teacher are recorded once. For every policy, size and number of evaluations a static policy a
sample is fitted to what was recorded of each segment, and rolled out from the segment's start; what separates its end
from the teacher's is the floor of a student of that policy. The fit is by L-BFGS, so that a floor is an upper bound.

Shapes: B trajectories, C latent channels, S spatial dims, n recorded steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from piflow_cli import registry
from piflow_cli.core.interfaces import Policy, PolicyFamily, Teacher
from piflow_cli.core.rollout import mean_velocity
from piflow_cli.core.sampling import sample_euler
from piflow_cli.core.schedule import Shift
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.errors import DataError
from piflow_cli.io.texts.json_text import json_text

RECORDED_STEPS = 64
"""Euler steps of a recorded trajectory; numbers of evaluations divide it."""
SUBSTEPS = (16, 32, 128)
"""Over the whole of raw time."""
WINDOWS = (0, 3)
"""Of the loss, in substeps of the recording: 0 matches instantaneous velocities."""
STATES, INITIAL_SPREAD = 16, 0.05
"""Recorded states of a segment that policies are fitted at; what tells the parts of a policy apart at first."""
FIT_SUBSTEPS = 128
"""Of the rollouts within a window."""


@dataclass(frozen=True)
class Recording:
    """Trajectories of a teacher.

    Args:
        states: x at each step, the noise first, (n + 1, B, C, *S).
        shift: of the time grid, uniform in raw time.
    """

    states: Tensor
    shift: Shift

    def tau(self, index: int) -> float:
        """Raw time of a state."""
        return 1 - index / (len(self.states) - 1)

    def mean(self, start: int, stop: int) -> Tensor:
        """The teacher's mean velocity from one state to a later one, (B, C, *S)."""
        span = self.shift.sigma(self.tau(start)) - self.shift.sigma(self.tau(stop))
        return (self.states[start] - self.states[stop]) / span


@dataclass(frozen=True)
class Floor:
    """How far a policy stays from the teacher at best.

    Args:
        policy: its family, or "euler" for one step of the teacher a segment.
        size: K or N; 0 for Euler.
        nfe: evaluations, segments of equal length.
        window: of the loss that it was fitted by, in recorded steps.
        channels: that a network puts out for each latent position.
        errors: by substeps over the whole of raw time, the squared distance at the ends of segments over the squared
            length of the way there.
    """

    policy: str
    size: int
    nfe: int
    window: int
    channels: int
    errors: dict[int, float]


@dataclass(frozen=True)
class Floors:
    """Floors of a teacher.

    Args:
        teacher: its name.
        shift: m of the time grid.
        trajectories: recorded.
        tolerance: that the cheapest has to meet.
        rows: Euler's first.
        cheapest: of the rows within the tolerance, the one of fewest evaluations, then channels; None where none is.
    """

    teacher: str
    shift: float
    trajectories: int
    tolerance: float
    rows: tuple[Floor, ...]
    cheapest: Floor | None

    def to_json(self) -> str:
        """Everything, for programs."""
        return json_text(asdict(self))


@torch.no_grad()
def record(teacher: Teacher, *, trajectories: int, shift: Shift, seed: int) -> Recording:
    """Trajectories from seeded noise, of conditions that show what the teacher can do."""
    space = teacher.space
    condition = space.preview_conditions(trajectories)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((trajectories, *space.latent_shape), generator=generator).to(space.device)
    states = [noise]
    sample_euler(
        lambda x, sigma: teacher.velocity(x, sigma, condition),
        noise,
        num_steps=RECORDED_STEPS,
        shift=shift,
        on_step=lambda _done, x: states.append(x),
    )
    return Recording(torch.stack(states).float().cpu(), shift)


def find_floors(
    recording: Recording,
    *,
    nfe: Sequence[int],
    windows: Sequence[int] = WINDOWS,
    iterations: int = 60,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[Floor]:
    """The floors of all policies, sizes, windows and numbers of evaluations.

    Raises:
        DataError: evaluations that do not divide the recording.
    """
    check_evaluations(nfe, steps=len(recording.states) - 1)
    found = [_euler(recording, count) for count in nfe]
    cases = [
        (policy, size, count, window)
        for policy in registry.names("policy")
        for size, count, window in product(registry.resolve("policy", policy).sizes[1], nfe, windows)
    ]
    for done, (policy, size, count, window) in enumerate(cases):
        if on_progress is not None:
            on_progress(done, len(cases), f"{policy} {size} at {count} NFE")
        found.append(_fitted(recording, policy, size, count, window=window, iterations=iterations))
    return found


def check_evaluations(nfe: Sequence[int], *, steps: int = RECORDED_STEPS) -> None:
    """Raise DataError for evaluations that do not divide the steps of a recording."""
    for count in nfe:
        if not 1 <= count <= steps or steps % count:
            raise DataError(f"nfe is {count}; limits are of evaluations that divide {steps}: 1, 2, 4, 8, 16, 32 or 64")


def cheapest(rows: Sequence[Floor], tolerance: float) -> Floor | None:
    """Of those within the tolerance at some number of substeps: fewest evaluations, then channels, then least error."""
    within = [row for row in rows if row.size and min(row.errors.values()) <= tolerance]
    return min(within, key=lambda row: (row.nfe, row.channels, min(row.errors.values())), default=None)


def _segments(recording: Recording, nfe: int) -> list[tuple[int, int]]:
    """First and last state of each segment."""
    length = (len(recording.states) - 1) // nfe
    return list(pairwise(range(0, len(recording.states), length)))


def _euler(recording: Recording, nfe: int) -> Floor:
    missed, way = 0.0, 0.0
    for start, stop in _segments(recording, nfe):
        ends = [recording.shift.sigma(recording.tau(i)) for i in (start, stop)]
        x, target = recording.states[start], recording.states[stop]
        missed += (x + recording.mean(start, start + 1) * (ends[1] - ends[0]) - target).square().sum().item()
        way += (target - x).square().sum().item()
    return Floor("euler", 0, nfe, 0, recording.states.shape[2], dict.fromkeys(SUBSTEPS, missed / way))


def _fitted(recording: Recording, policy: str, size: int, nfe: int, *, window: int, iterations: int) -> Floor:
    kind, channels = registry.resolve("policy", policy), recording.states.shape[2]
    sampling = SamplingSettings(nfe=nfe, shift=recording.shift.m)
    family: PolicyFamily = kind(**{kind.sizes[0]: size}, **kind.derived_keys(sampling))
    missed, way = dict.fromkeys(SUBSTEPS, 0.0), 0.0
    for start, stop in _segments(recording, nfe):
        fitted = _fit(recording, family, start, stop, window=window, iterations=iterations)
        x, target = recording.states[start], recording.states[stop]
        ends = [torch.full((len(x),), recording.tau(i), dtype=torch.float64) for i in (start, stop)]
        for substeps in SUBSTEPS:
            end = fitted.rollout(x, *ends, shift=recording.shift, total_substeps=substeps)
            missed[substeps] += (end - target).square().sum().item()
        way += (target - x).square().sum().item()
    errors = {substeps: value / way for substeps, value in missed.items()}
    return Floor(policy, size, nfe, window, family.output_channels(channels), errors)


def _fit(recording: Recording, family: PolicyFamily, start: int, stop: int, *, window: int, iterations: int) -> Policy:
    """Policies (B) of a segment, fitted to the teacher's mean velocities over windows from its recorded states."""
    source, first = recording.states[start], recording.mean(start, start + 1)
    visited = torch.linspace(start, stop - 1, min(STATES, stop - start)).long().tolist()
    ends = [(index, min(index + max(window, 1), stop)) for index in visited]
    x = torch.cat([recording.states[index] for index in visited])  # (states B, C, *S)
    target = torch.cat([recording.mean(*pair) for pair in ends])
    tau = [
        torch.tensor([recording.tau(pair[side]) for pair in ends]).repeat_interleave(len(source)).double()
        for side in (0, 1)
    ]
    guess = family.first_output(first, spread=INITIAL_SPREAD, generator=torch.Generator().manual_seed(0))
    leaves = [leaf.requires_grad_() for leaf in guess if leaf is not None]
    optimizer = torch.optim.LBFGS(leaves, max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        policy = _policy(family, recording, leaves, start, times=len(visited))
        if window:
            said = mean_velocity(policy, x, *tau, shift=recording.shift, total_substeps=FIT_SUBSTEPS)
        else:
            said = policy.velocity(x, recording.shift.sigma(tau[0]).float())
        missed = (said - target).square().mean()
        missed.backward()
        return missed

    optimizer.step(loss)
    return _policy(family, recording, leaves, start).detach()


def _policy(
    family: PolicyFamily, recording: Recording, leaves: Sequence[Tensor], start: int, *, times: int = 1
) -> Policy:
    """The policies of a segment, all of them as many times in a row as there are states to ask them at."""
    source = recording.states[start]
    output, *extra = (leaf.repeat(times, *[1] * (leaf.ndim - 1)) for leaf in leaves)
    x = source.repeat(times, *[1] * (source.ndim - 1))
    sigma = torch.full((len(x),), recording.shift.sigma(recording.tau(start)))
    return family.policy(output, extra[0] if extra else None, x, sigma)
