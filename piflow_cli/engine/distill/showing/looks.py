"""What a run shows between its steps: pictures, drawn with the average in the place of the weights, and its report."""

from __future__ import annotations

from collections.abc import Callable

from piflow_cli.core.ema import EMA
from piflow_cli.core.interfaces import DataSource
from piflow_cli.engine.distill.events import Journal
from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.engine.distill.showing.drawing import Drawer
from piflow_cli.engine.distill.showing.preview import Preview
from piflow_cli.engine.distill.showing.validation import Validation, validated_steps
from piflow_cli.engine.report.keeper import ReportKeeper
from piflow_cli.errors import StorageError
from piflow_cli.preset import Preset


class Looks:
    """Decides when previews, validations and the report are due, and sees to them.

    Args:
        preset: the recipe.
        run: where pictures go.
        data: whose prompts or classes are drawn.
        drawer: of the run.
        ema: the average.
        journal: is told.
    """

    def __init__(
        self, preset: Preset, run: RunFolder, data: DataSource, *, drawer: Drawer, ema: EMA, journal: Journal
    ) -> None:
        self.run, self.drawer, self.ema, self.journal = run, drawer, ema, journal
        self.steps = preset.training.steps
        self.preview_every, self.validate_every = preset.training.preview_every, preset.validation.every
        told = {"drawer": drawer, "journal": journal}
        self.preview = Preview(preset, run, data, **told) if self.preview_every else None
        self.validation = Validation(preset, run, data, ema=ema, **told) if self.validate_every else None
        self.save_every = preset.training.checkpoint_every
        self.report = ReportKeeper(run.path, on_failure=self._warn) if drawer.together.is_main else None

    def after(self, step: int) -> None:
        """Draw what is due after a step.

        Raises:
            StorageError: the run's folder is gone, or cannot be written.
        """
        if self.preview is not None and self._is_due(step, self.preview_every):
            self._do("preview", self.preview_every, lambda: self.preview.write(step=step), step)
        if self.validation is not None and self._is_due(step, self.validate_every):
            self._do("validation", self.validate_every, lambda: self.validation.validate(step), step)
        intervals = [every for every in (self.preview_every, self.validate_every, self.save_every) if every]
        if self.report is not None and any(step % every == 0 for every in intervals) and self.report.is_due:
            self._write_report(every=min(intervals))
            self.journal.busy(f"taking step {step + 1}" if step < self.steps else "ending the run")

    def finish(self) -> None:
        """Write the report of a run that ends, for whatever reason."""
        if self.report is not None:
            self._write_report(every=self.steps)

    def _write_report(self, *, every: int) -> None:
        """By the main process, where the run's folder is still there."""
        try:
            self.run.check_there()
        except StorageError:
            return  # said by whatever is written next
        self.journal.busy("writing the report")
        with self.journal.pace.pause("report", every=every):
            self.report.write()

    def _warn(self, message: str) -> None:
        self.journal.tell("warning", message=message)

    def resume(self, step: int) -> None:
        """Make good a validation that was due when the run was stopped."""
        if self.validation is None or not step or not self._is_due(step, self.validate_every):
            return
        if not self.drawer.together.main_does(lambda: step in validated_steps(self.run)):
            self._do("validation", self.validate_every, lambda: self.validation.validate(step), step)

    def _is_due(self, step: int, every: int) -> bool:
        return step == self.steps or step % every == 0

    def _do(self, name: str, every: int, action: Callable[[], None], step: int) -> None:
        """By all processes: those that are done sooner wait."""
        self.drawer.together.main_does(self.run.check_there)
        self.journal.busy(f"drawing the {name} of step {step}")
        with self.journal.pace.pause(name, every=every), self.ema.applied():
            self.drawer.network.student.eval()
            action()
            self.drawer.together.meet()
