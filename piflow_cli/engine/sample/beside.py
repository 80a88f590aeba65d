"""Several models beside each other: the same prompts from the same noise, on one sheet with a row a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.sample.artist import TeacherSampling
from piflow_cli.engine.sample.job import SampleJob, SampleResult
from piflow_cli.engine.sample.save import MAX_SHEET_PX
from piflow_cli.errors import DataError
from piflow_cli.io.pictures import grid_picture, sheet_size

if TYPE_CHECKING:
    from PIL.Image import Image

TEACHER_NAME = "teacher"
TEACHER = re.compile(rf"{TEACHER_NAME}(?:@(?P<steps>\d{{1,4}}))?")


@dataclass(frozen=True)
class Other:
    """What is drawn beside a model.

    Args:
        source: a student; None is the teacher of the model.
        steps: Euler steps of that teacher; None is as many as a teacher takes where none are asked for.
    """

    source: str | None
    steps: int | None = None


def parse_beside(text: str) -> list[Other]:
    """Models of a list such as "teacher,teacher@4,emoji-1nfe".

    Raises:
        DataError: an empty name.
    """
    others = []
    for name in (part.strip() for part in text.split(",")):
        if not name:
            raise DataError(f"{text!r} names nothing beside a comma; write it as teacher,teacher@4,STUDENT")
        found = TEACHER.fullmatch(name)
        steps = found["steps"] if found else None
        others.append(Other(None if found else name, int(steps) if steps else None))
    return others


@dataclass(frozen=True)
class Lineup:
    """Jobs for the same pictures by several models.

    Raises:
        DataError: they draw in latents of other shapes, or the sheet would be too large.
    """

    jobs: Sequence[SampleJob]

    def __post_init__(self) -> None:
        first = self.jobs[0]
        for job in self.jobs[1:]:
            if job.shape != first.shape:
                raise DataError(
                    f"{job.artist.name} draws from noise {job.shape}, and {first.artist.name} from {first.shape}: the "
                    "same noise is no picture of both. Name models of one teacher and one size."
                )
        width, height = sheet_size(first.size_px, len(self.jobs) * len(first.wanted), columns=len(first.wanted))
        if width * height > MAX_SHEET_PX:
            raise DataError(
                f"a sheet of {len(self.jobs)} models and {len(first.wanted)} pictures would have {width} x {height} "
                f"pixels, more than {MAX_SHEET_PX / 1e6:.0f} million: ask for fewer"
            )

    @property
    def warnings(self) -> list[str]:
        """Of all jobs, each once, with the name of its model."""
        named = (f"{job.artist.name}: {warning}" for job in self.jobs for warning in job.warnings)
        return list(dict.fromkeys(named))

    def run(
        self, *, together: Together | None = None, on_progress: Callable[[int, int], None] | None = None
    ) -> list[SampleResult]:
        """Draw everything, model after model.

        Args:
            together: as `SampleJob.run`.
            on_progress: called with (evaluations done, evaluations wanted) of all models together.

        Raises: as `SampleJob.run`.
        """
        totals = [job.artist.settings.nfe * len(job.wanted) for job in self.jobs]
        results = []
        for i, job in enumerate(self.jobs):

            def report(done: int, _total: int, before: int = sum(totals[:i])) -> None:
                if on_progress is not None:
                    on_progress(before + done, sum(totals))

            results.append(job.run(together=together, on_progress=report))
        return results


def sheet(results: Sequence[SampleResult]) -> tuple[Image, dict[str, str]]:
    """One picture with a row a model and a column a picture, and what it says of itself."""
    first = results[0]
    picture = grid_picture(
        [image for result in results for image in result.images],
        columns=len(first.drawn),
        row_labels=[label(result) for result in results],
        column_labels=first.prompts,
    )
    facts = {
        "models": "; ".join(label(result) for result in results),
        "prompt": ", ".join(dict.fromkeys(first.prompts)),
        "seed": ", ".join(map(str, dict.fromkeys(first.seeds))),
        "software": first.drawn[0].facts["software"],
    }
    return picture, facts


def label(result: SampleResult) -> str:
    """Who drew a row, and with how many evaluations or steps."""
    nfe = result.settings.nfe
    if isinstance(result.settings, TeacherSampling):
        return f"teacher {result.model}, {nfe} step{'s' * (nfe > 1)}"
    return f"{result.model}, {nfe} evaluation{'s' * (nfe > 1)}"
