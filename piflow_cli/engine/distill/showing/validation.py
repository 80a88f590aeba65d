"""Validation of a run: the student beside its teacher on prompts of the user's, how far apart they are, the best."""

from __future__ import annotations

import time

from torch import Tensor

from piflow_cli.core.ema import EMA
from piflow_cli.core.interfaces import DataSource
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.distill.events import Journal
from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.engine.distill.showing.best import BEST, Best, averaged_student
from piflow_cli.engine.distill.showing.drawing import Drawer
from piflow_cli.engine.distill.showing.measuring import Measure, column_name, mean
from piflow_cli.engine.distill.showing.preview import sheet_facts
from piflow_cli.engine.distill.showing.scene import asked_scene
from piflow_cli.engine.plan.checks import validated_prompts
from piflow_cli.errors import PartnerError, PiflowError, SamplingError
from piflow_cli.formats.run import PAIRED, VALIDATION
from piflow_cli.io.files import write_atomic
from piflow_cli.io.pictures import png_bytes, to_pictures
from piflow_cli.io.sheets.comparison import Row, comparison_sheet, rows_about
from piflow_cli.metrics.paired import picture_errors
from piflow_cli.preset import Preset


class Validation:
    """Draws a scene by the teacher once and by the student again and again, and compares.

    Args:
        preset: whose `[validation]` says what.
        run: where sheets and the best student go.
        data: whose prompts or classes are taken where the preset names none.
        drawer: of the run.
        ema: whose averages are the student.
        journal: is told.

    Raises:
        DataError: a class, a size, a reference picture or a metric that cannot be had.
    """

    def __init__(
        self, preset: Preset, run: RunFolder, data: DataSource, *, drawer: Drawer, ema: EMA, journal: Journal
    ) -> None:
        self.preset, self.run, self.drawer, self.ema, self.journal = preset, run, drawer, ema, journal
        self.settings, self.samplings = preset.validation, preset.validation.samplings(preset.sampling)
        listed = validated_prompts(preset)
        self.scene = asked_scene(preset, listed, data, drawer.teacher.space)
        self.measure = Measure(preset, data, drawer=drawer) if self.settings.samples else None
        self.reference: Tensor | None = None
        measured_by = {
            "prompts": list(self.scene.labels),
            "seeds": list(self.scene.seeds),
            "size": self.settings.size_px,
            "nfe": self.samplings[0].nfe,
            "teacher_steps": self.settings.teacher_steps,
            **({} if listed.about is None else {"references": listed.about.digest()}),
        }
        self.best = Best(run / BEST, measured_by=measured_by)

    def validate(self, step: int) -> None:
        """Draw, compare, write down and tell; keep the student where it is the best so far.

        A student whose pictures are not finite is told of, and training goes on.

        Args:
            step: of the run, whose network is in eval mode and holds the averages; all processes take part.

        Raises:
            StorageError: the sheet or the student cannot be written.
        """
        begun = time.perf_counter()
        try:
            if self.reference is None:
                self.reference = self.drawer.by_teacher(self.scene, steps=self.settings.teacher_steps)
            pictures = [self.drawer.by_student(self.scene, settings, step=step) for settings in self.samplings]
            scores = self._scores(pictures, step=step)
        except (SamplingError, PartnerError) as error:  # the other where another process drew them
            self.journal.tell("warning", message=f"no validation of step {step}, and training goes on: {error}")
            return
        error = scores[column_name(PAIRED, self.samplings[0].nfe)]
        better = self.best.beaten_by(error)
        if better:
            self._keep(step, error)
        path = self.run / VALIDATION / f"step-{step:07d}.png"
        self.drawer.together.main_does(lambda: self._write(pictures, scores, step=step))
        row = {"step": step, **scores, "validation/wall_s": time.perf_counter() - begun}
        self.journal.log_validation(row, path=path, message=_words(scores) + ("; the best so far" if better else ""))

    def _scores(self, pictures: list[Tensor], *, step: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for settings, drawn in zip(self.samplings, pictures, strict=True):
            found[column_name(PAIRED, settings.nfe)] = mean(picture_errors(drawn, self.reference))
            if self.measure is not None:
                measured = self.measure.scores(settings, step=step)
                found |= {column_name(column, settings.nfe): value for column, value in measured.items()}
        return found

    def _keep(self, step: int, error: float) -> None:
        """Write the best student by the main process; sharded averages are put together by all."""
        together, teacher = self.drawer.together, self.drawer.teacher
        stored = averaged_student(self.preset, teacher, self.ema, step=step, together=together)
        vae = teacher.space.own_vae
        together.main_does(lambda: self.best.keep(lambda: stored, step=step, error=error, vae=vae))
        self.best.error = error

    def _write(self, pictures: list[Tensor], scores: dict[str, float], *, step: int) -> None:
        rows = [Row(("teacher", f"{self.settings.teacher_steps} steps"), to_pictures(self.reference))]
        for settings, drawn in zip(self.samplings, pictures, strict=True):
            rows.append(Row(_names(settings, scores, step=step), to_pictures(drawn)))
        about = rows_about(self.scene.about, size_px=rows[0].pictures[0].size)
        sheet = comparison_sheet(self.scene.labels, [*about, *rows])
        facts = sheet_facts(self.scene, self.preset, step=step, nfe=", ".join(str(s.nfe) for s in self.samplings))
        folder = self.run / VALIDATION
        folder.mkdir(exist_ok=True)
        write_atomic(folder / f"step-{step:07d}.png", png_bytes(sheet, facts | {k: str(v) for k, v in scores.items()}))
        self.journal.trackers.show(VALIDATION, sheet, step=step)


def _names(settings: SamplingSettings, scores: dict[str, float], *, step: int) -> tuple[str, ...]:
    return "student", f"{settings.nfe} NFE", f"step {step}", f"error {scores[column_name(PAIRED, settings.nfe)]:.3f}"


def _words(scores: dict[str, float]) -> str:
    """Scores such as: 4 NFE: paired error 0.1, fid 2.3."""
    found: dict[str, list[str]] = {}
    for name, value in scores.items():
        column, _, nfe = name.removeprefix("validation/").removesuffix("nfe").rpartition("_")
        found.setdefault(nfe, []).append(f"{column.replace('_', ' ')} {value:.4g}")
    return "; ".join(f"{nfe} NFE: {', '.join(words)}" for nfe, words in found.items())


def validated_steps(run: RunFolder) -> set[int]:
    """Steps whose validation is written down.

    Raises:
        PiflowError: the metrics cannot be read.
    """
    try:
        return {row["step"] for row in run.metrics() if any(key.startswith("validation/") for key in row)}
    except OSError as error:
        raise PiflowError(f"cannot read the metrics of {run.path}: {error}") from None
