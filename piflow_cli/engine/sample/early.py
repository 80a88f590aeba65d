"""What is asked for, held against a student's card before any weights are read: a slip of the finger costs no wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from piflow_cli.core.interfaces import TeacherFamily
from piflow_cli.data.asked import Asked
from piflow_cli.data.files.references import illustrated
from piflow_cli.engine.sample.artist import TeacherSampling
from piflow_cli.engine.sample.check import check_pictures
from piflow_cli.engine.sample.request import TextRequest
from piflow_cli.engine.students.settings import changed_settings, checked
from piflow_cli.errors import DataError
from piflow_cli.formats.student import StudentCard


@dataclass(frozen=True)
class EarlyCheck:
    """A request, as far as a card can say whether it can be drawn.

    Args:
        asked: prompts.
        request: what is asked beside them.
        changes: nfe, substeps, temperature and h of a student; what is None stays as trained.
        steps, shift: of a teacher; None is as usual.
    """

    asked: Sequence[Asked]
    request: TextRequest
    changes: Mapping[str, object] = field(default_factory=dict)
    steps: int | None = None
    shift: float | str | None = None

    def student(self, card: StudentCard, family: TeacherFamily, *, name: str) -> None:
        """Raise PolicyError or DataError where a student cannot be asked so."""
        changed_settings(card, name=name, **self.changes)
        self._check(card, family, name=name)

    def teacher(self, card: StudentCard, family: TeacherFamily, *, name: str) -> None:
        """Raise PolicyError or DataError where the teacher of a student cannot be asked so."""
        grid = {"nfe": self.steps, "shift": self.shift if isinstance(self.shift, float) else None}
        checked(TeacherSampling, {"nfe": 1} | {name: value for name, value in grid.items() if value is not None})
        self._check(card, family, name=name)

    def _check(self, card: StudentCard, family: TeacherFamily, *, name: str) -> None:
        family.check_prompts(card.network, [item.prompt for item in self.asked])
        check_pictures([len(item.references) for item in self.asked], family.num_pictures, name=name)
        illustrated([(item.prompt, item.references) for item in self.asked])  # which refuses what cannot be read
        sides, frames = (self.request.width, self.request.height), self.request.frames
        if sides == (None, None) and frames is None:
            return
        if family.size_px is None:
            raise DataError(
                f"{name} draws classes at one size and takes no width, height or frames; those are for students of "
                "prompts"
            )
        usual = family.size_px
        family.check_size(*(side if side is not None else usual[i] for i, side in enumerate(sides)), frames)
