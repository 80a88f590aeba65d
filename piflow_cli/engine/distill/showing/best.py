"""The best student of a run so far, kept beside the last one: by the paired error to the teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from piflow_cli import registry
from piflow_cli.core.ema import EMA
from piflow_cli.core.interfaces import Teacher
from piflow_cli.engine.processes.sharded import whole
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.students.save import card_of, write_student
from piflow_cli.formats.student import StoredStudent
from piflow_cli.io.files import atomic_folder
from piflow_cli.preset import Preset

BEST, RECORD = "best", "validation.json"
"""Folder of a run that is a student, and the file in it that says how good it is, and by what."""


class Best:
    """Keeps the student of the least paired error.

    Errors are compared where they are of the same pictures: where the validation was changed between, the first student
    that is validated takes the place of the former best.

    Args:
        folder: of the student.
        measured_by: all that decides the error of a student.
    """

    def __init__(self, folder: Path, *, measured_by: dict[str, object]) -> None:
        self.folder, self.measured_by = folder, json.loads(json.dumps(measured_by))
        self.error = self._known()

    def beaten_by(self, error: float) -> bool:
        """Whether a student of this error is better."""
        return math.isfinite(error) and error < self.error

    def keep(self, stored: Callable[[], StoredStudent], *, step: int, error: float, vae: object) -> None:
        """Write a student in the place of the former best, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        record = {"step": step, "paired_error": error, "measured_by": self.measured_by}
        with atomic_folder(self.folder) as partial:
            write_student(stored(), partial, registry.resolve("format", "native")(), vae=vae)
            (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        self.error = error

    def _known(self) -> float:
        """The error of the student that is there, infinity where there is none of the same pictures."""
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            return float(record["paired_error"]) if record["measured_by"] == self.measured_by else math.inf
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return math.inf


def averaged_student(preset: Preset, teacher: Teacher, ema: EMA, *, step: int, together: Together) -> StoredStudent:
    """The student of the averages as they are, on the CPU; every process must ask, and the main one gets it."""
    weights: dict[str, Tensor] = {}
    for name, average in ema.averages.items():
        tensor = whole(average)
        if together.is_main:
            weights[name] = tensor.detach().cpu().clone()
    return StoredStudent(card=card_of(preset, teacher, steps=step), weights=weights)
