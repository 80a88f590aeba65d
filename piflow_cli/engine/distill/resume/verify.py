"""Whether a run that was stopped and went on is the one that was not: two run folders compared by all they kept."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from piflow_cli.engine.distill.resume.checkpoints import CheckpointCard, Checkpoints
from piflow_cli.engine.distill.resume.snapshot import OPTIMIZER, WEIGHTS
from piflow_cli.errors import StorageError
from piflow_cli.formats.checkpoint import AVERAGE
from piflow_cli.formats.run import METRICS
from piflow_cli.io.tensors.distributed import read_tensors

TENSORS = {"weights": WEIGHTS, "average": AVERAGE, "optimiser": OPTIMIZER}


@dataclass(frozen=True)
class Difference:
    """How far two runs are apart in one thing.

    Args:
        part: what was compared.
        compared: how much of it, in words.
        largest: the largest difference.
        where: the tensor that it is in; empty where there is none, or only one thing.
        exact: whether it has to be zero also where the number of processes changed between.
    """

    part: str
    compared: str
    largest: float
    where: str = ""
    exact: bool = True


@dataclass(frozen=True)
class ResumeReport:
    """A run of `steps` straight steps beside one that was stopped at `stopped_at` and went on in a new process.

    Args:
        differences: of all that training depends on.
        num_processes: of the straight run, and of the part that went on.
        batch: effective batch of both.
    """

    steps: int
    stopped_at: int
    num_processes: tuple[int, int]
    sharded: tuple[bool, bool]
    batch: tuple[int, int]
    differences: tuple[Difference, ...]

    @property
    def same_processes(self) -> bool:
        """Whether both were spread over processes alike, so that sums are added up in one order."""
        return len(set(self.num_processes)) == len(set(self.sharded)) == 1

    @property
    def is_zero(self) -> bool:
        """Whether nothing differs."""
        return all(difference.largest == 0 for difference in self.differences)

    @property
    def keeps_order(self) -> bool:
        """Whether what does not depend on rounding is the same: data, batch, draws, counters, schedules."""
        return all(difference.largest == 0 for difference in self.differences if difference.exact)


def compare_runs(straight: Path, resumed: Path, *, stopped_at: int) -> ResumeReport:
    """What differs between the newest checkpoints of two runs, and between the losses of their steps.

    Args:
        straight: run folder of a run that was not stopped.
        resumed: of one that was stopped and went on.
        stopped_at: the step at which it was.

    Raises:
        StorageError: one of them has no whole checkpoint, or they are of different steps or students.
    """
    folders = [Checkpoints(run / "checkpoints") for run in (straight, resumed)]
    cards = [_card(folder) for folder in folders]
    if cards[0].step != cards[1].step:
        raise StorageError(f"{straight} is at step {cards[0].step} and {resumed} at step {cards[1].step}")
    step = cards[0].step
    paths = [folder.path(step) for folder in folders]
    found = [_tensors(part, prefix, *paths) for part, prefix in TENSORS.items()]
    found += _facts(*cards)
    found.append(_losses(straight, resumed, after=stopped_at))
    return ResumeReport(
        steps=step,
        stopped_at=stopped_at,
        num_processes=(cards[0].num_processes, cards[1].num_processes),
        sharded=(cards[0].sharded, cards[1].sharded),
        batch=(_batch(cards[0]), _batch(cards[1])),
        differences=tuple(found),
    )


def _card(folder: Checkpoints) -> CheckpointCard:
    card, _ = folder.newest_whole()
    if card is None:
        raise StorageError(f"{folder.folder} has no checkpoint: its run was not saved")
    return card


def _batch(card: CheckpointCard) -> int:
    return len(card.data) * card.micro_batch_size


def _tensors(part: str, prefix: str, straight: Path, resumed: Path) -> Difference:
    """The largest difference of the tensors whose names begin so, in float64."""
    a, b = read_tensors(straight, prefix), read_tensors(resumed, prefix)
    if a.keys() != b.keys():
        raise StorageError(f"{straight} and {resumed} hold different tensors: {sorted(a.keys() ^ b.keys())[:4]}")
    apart = {name: float((a[name].double() - b[name].double()).abs().max()) for name in a if a[name].numel()}
    worst = max(apart, key=lambda name: apart[name], default="")
    numbers = sum(tensor.numel() for tensor in a.values())
    largest = apart.get(worst, 0.0)
    where = worst.removeprefix(prefix) if largest else ""
    return Difference(part, f"{len(a)} tensors, {numbers:,} numbers", largest, where, exact=False)


def _facts(a: CheckpointCard, b: CheckpointCard) -> list[Difference]:
    """What is no tensor: schedules, the mixing ratio, where the data are, draws, counters."""
    schedules = [[(s.step, *s.rates) for s in card.schedules] for card in (a, b)]
    scales = [tuple((card.scaler or {}).values()) for card in (a, b)]
    data = [x != y for x, y in zip_longest(a.data, b.data)]
    return [
        Difference("scheduler", "its step and rates", _largest(chain(*schedules[0]), chain(*schedules[1]))),
        Difference("mixing ratio", "the teacher's share of the next step", abs(a.teacher_ratio - b.teacher_ratio)),
        Difference("loss scale", "and steps since an overflow", _largest(*scales)),
        Difference("counters", ", ".join(a.counters), _largest(a.counters.values(), b.counters.values())),
        Difference("effective batch", f"{_batch(a)} samples a step", abs(_batch(a) - _batch(b))),
        Difference("data position", f"{len(a.data)} micro-batches of the last step", sum(data)),
        Difference("draws", "generators after the last micro-batch", float(a.draws[-1] != b.draws[-1])),
    ]


def _losses(straight: Path, resumed: Path, *, after: int) -> Difference:
    """The largest difference of the losses of the steps after the stop."""
    a, b = _losses_of(straight, after), _losses_of(resumed, after)
    if a.keys() != b.keys():
        raise StorageError(f"{straight / METRICS} and {resumed / METRICS} are not of the same steps")
    return Difference("losses", f"{len(a)} steps after the stop", _largest(a.values(), b.values()), exact=False)


def _losses_of(run: Path, after: int) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / METRICS).read_text(encoding="utf-8").splitlines()]
    return {row["step"]: row["loss"] for row in rows if row["step"] > after and "loss" in row}  # not of validations


def _largest(a: Iterable[float], b: Iterable[float]) -> float:
    """The largest difference of numbers in one order; those of skipped steps are none on both sides."""
    pairs = zip(a, b, strict=True)
    return max((abs(x - y) for x, y in pairs if not (math.isnan(x) and math.isnan(y))), default=0.0)
