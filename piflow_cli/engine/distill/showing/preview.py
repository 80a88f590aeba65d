"""Preview pictures of a run: the student beside its teacher, from the same noise."""

from __future__ import annotations

from torch import Tensor

from piflow_cli import __version__
from piflow_cli.core.interfaces import DataSource
from piflow_cli.engine.distill.events import Journal
from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.engine.distill.showing.drawing import Drawer
from piflow_cli.engine.distill.showing.scene import Scene, usual_scene
from piflow_cli.errors import PartnerError, SamplingError
from piflow_cli.formats.run import PREVIEWS
from piflow_cli.io.files import write_atomic
from piflow_cli.io.pictures import png_bytes, to_pictures
from piflow_cli.io.sheets.comparison import Row, comparison_sheet, rows_about
from piflow_cli.preset import Preset

TEACHER_STEPS = 32
"""Euler steps of the teacher's reference pictures."""


class Preview:
    """The noise, the prompts and the teacher's pictures that every preview of a run shares.

    Args:
        preset: the recipe.
        run: where pictures go.
        data: whose prompts or classes are drawn.
        drawer: of the run.
        journal: is told.
    """

    def __init__(self, preset: Preset, run: RunFolder, data: DataSource, *, drawer: Drawer, journal: Journal) -> None:
        self.preset, self.run, self.drawer, self.journal = preset, run, drawer, journal
        self.scene = usual_scene(data, drawer.teacher.space, preset.training.preview_images)
        self.reference: Tensor | None = None

    def write(self, *, step: int) -> None:
        """Draw and write previews/step-N.png: teacher above student; and tell of it.

        Pictures that are not finite are told of in place of a sheet of black ones. Training goes on: whether it can is
        decided by its losses.

        Args:
            step: of the run, whose network is in eval mode; all processes draw, and the main one writes.
        """
        settings = self.preset.sampling.model_copy(update={"h": 0.0})
        try:
            if self.reference is None:
                self.reference = self.drawer.by_teacher(self.scene, steps=TEACHER_STEPS)
            pictures = self.drawer.by_student(self.scene, settings, step=step)
        except (SamplingError, PartnerError) as error:  # the other where another process drew them
            self.journal.tell("warning", message=f"no preview of step {step}, and training goes on: {error}")
            return
        rows = [
            Row(("teacher", f"{TEACHER_STEPS} steps"), to_pictures(self.reference)),
            Row(("student", f"{settings.nfe} NFE", f"step {step}"), to_pictures(pictures)),
        ]
        rows = [*rows_about(self.scene.about, size_px=rows[0].pictures[0].size), *rows]
        path = self.run / PREVIEWS / f"step-{step:07d}.png"
        if self.drawer.together.is_main:
            facts = sheet_facts(self.scene, self.preset, step=step, nfe=str(settings.nfe))
            write_atomic(path, png_bytes(comparison_sheet(self.scene.labels, rows), facts))
        self.journal.tell("preview", path=path)


def sheet_facts(scene: Scene, preset: Preset, *, step: int, nfe: str) -> dict[str, str]:
    """What a sheet's file says of itself: what each column was asked for, and who drew it."""
    return {
        "prompts": "\n".join(" ".join(label.split()) for label in scene.labels),
        "seeds": ", ".join(map(str, scene.seeds)),
        "nfe": nfe,
        "step": str(step),
        "preset": preset.name,
        "teacher": preset.teacher.source,
        "software": f"piflow {__version__}",
    }
