"""What a distillation tells while it runs, and when it ends, and the journal that keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.engine.distill.showing.pace import Pace
from piflow_cli.engine.distill.showing.trackers import Trackers
from piflow_cli.engine.distill.showing.utilisation import Work
from piflow_cli.engine.distill.state import Progress
from piflow_cli.errors import StorageError
from piflow_cli.preset import TrainingSettings

NUM_EXAMPLES = 4
"""Prompts that a user is told to try the student with."""
ESTIMATED_AFTER = 3
"""Steps after which the time of all is first told."""


@dataclass(frozen=True)
class DistillEvent:
    """What happened in a run: a step, a file written, a step skipped; while caching, steps are what `message` says.

    `busy` names what is being done that may take a while; `estimate` has the time left, once a few steps were taken.
    """

    kind: Literal[
        *("busy", "caching", "start", "setting", "estimate", "step", "checkpoint", "preview", "skipped"),
        *("validation", "left out", "warning", "done"),
    ]
    step: int
    steps: int
    loss: float | None = None
    learning_rate: float | None = None
    images_per_s: float | None = None
    remaining_s: float | None = None
    utilisation: float | None = None
    path: Path | None = None
    message: str = ""


@dataclass(frozen=True)
class DistillResult:
    """How a run ended.

    Args:
        student: its folder, written also where the run was interrupted.
        examples: prompts to try.
        warned: whether a process was told by SIGUSR1, as Slurm does it, that its time is nearly over.
    """

    student: Path | None
    out: Path
    step: int
    steps: int
    interrupted: bool
    skipped: int
    wall_s: float
    loss: float | None
    examples: tuple[str, ...] = ()
    warned: bool = False


class Journal:
    """What the main process tells and writes down of a run.

    Args:
        run: where metrics are kept.
        settings: of the training.
        progress: of the run.
        trackers: get what is written down.
        on_event: is told; None in processes that say nothing.
        speaks: whether this process writes and tells.
        work: what a step asks of the GPUs, where their peak is known.
    """

    def __init__(
        self,
        run: RunFolder,
        settings: TrainingSettings,
        progress: Progress,
        *,
        trackers: Trackers,
        on_event: Callable[[DistillEvent], None] | None,
        speaks: bool,
        work: Work | None = None,
    ) -> None:
        self.run, self.settings, self.progress, self.trackers = run, settings, progress, trackers
        self.on_event, self.speaks = on_event if speaks else None, speaks
        self.work = work
        self.failure: StorageError | None = None
        self.left_out = 0
        self.pace = Pace(settings.steps)

    @property
    def wall_s(self) -> float:
        """Seconds since the first step began."""
        return self.pace.wall_s

    def tell(self, kind: str, *, step: int | None = None, **facts: Any) -> None:
        """Tell of an event at a step, the current one where none is named."""
        if self.on_event is not None:
            step = self.progress.step if step is None else step
            self.on_event(DistillEvent(kind=kind, step=step, steps=self.settings.steps, **facts))

    def busy(self, what: str) -> None:
        """Tell what is being done from now on."""
        self.tell("busy", message=what)

    def show_caching(self, done: int, total: int, what: str = "prompts") -> None:
        """Tell how many prompts or pictures are encoded, before training begins."""
        if self.on_event is not None:
            self.on_event(DistillEvent(kind="caching", step=done, steps=total, message=what))

    def log(
        self, *, loss: float, by_segment: Sequence[float | None], gradient_norm: float, learning_rate: float
    ) -> None:
        """Write down and tell a step that was taken; a failure to write is kept in `failure`.

        Args:
            loss: of the step.
            by_segment: of each segment by itself, from noise to data; None where none was drawn.
            gradient_norm: before clipping.
            learning_rate: with which the step was taken.
        """
        if not self.speaks:
            return
        self.pace.step()
        step, step_s = self.progress.step, self.pace.step_s
        row = {
            "step": step,
            "loss": loss,
            "gradient_norm": gradient_norm,
            "learning_rate": learning_rate,
            "images_per_s": self.settings.batch_size / step_s,
            "wall_s": self.wall_s,
            "skipped": self.progress.skipped,
        }
        if self.work is not None:
            row["utilisation"] = self.work.share(step_s)
        if len(by_segment) > 1:
            row |= {f"loss_segment_{i}": part for i, part in enumerate(by_segment, start=1) if part is not None}
        try:
            self.run.append_metrics(row)
        except StorageError as error:
            self.failure = error
        self.trackers.log(row, step=step)
        told = {key: row.get(key) for key in ("loss", "learning_rate", "images_per_s", "utilisation")}
        left = self.pace.remaining_s(step)
        if self.pace.taken == ESTIMATED_AFTER and step < self.settings.steps:
            reached = "" if self.work is None else self.work.words(step_s)
            self.tell("estimate", remaining_s=left, images_per_s=row["images_per_s"], message=reached)
        self.tell("step", remaining_s=left, **told)

    def log_validation(self, row: dict[str, Any], *, path: Path, message: str) -> None:
        """Write down and tell what a validation found, as a row of its own.

        Args:
            row: its step and numbers.
            path: of its sheet.
            message: the same in words.
        """
        if not self.speaks:
            return
        try:
            self.run.append_metrics(row)
        except StorageError as error:
            self.failure = error
        self.trackers.log(row, step=row["step"])
        self.tell("validation", path=path, message=message)

    def name_left_out(self, skipped: Sequence[str]) -> None:
        """Name what the data source has left out since this was last asked."""
        new = skipped[self.left_out :]
        if new:
            self.left_out += len(new)
            names = ", ".join(new[:4]) + (f" and {len(new) - 4} more" if len(new) > 4 else "")
            self.tell("left out", message=f"left out so far: {self.left_out}, now {names}")
