"""A paper's protocol as options of a benchmark, its published rows, and where a result departs from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from piflow_cli.engine.benchmark.gauge import TEACHER
from piflow_cli.engine.benchmark.result import BenchmarkResult, Published
from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.torchscript import INCEPTION_NAME, INCEPTION_URL

SET_NAME = re.compile(r"[^:@ ]*")
"""Of a list of prompts, what stands before a path, a revision or where it was fetched from."""


class Options(TypedDict):
    """Options of `benchmark` that a recipe decides where the user does not."""

    metrics: Sequence[str]
    samples: int
    prompts: str | None
    reference: str
    detector: str
    teacher_steps: Sequence[int]


@dataclass(frozen=True)
class Recipe:
    """A paper's protocol.

    Args:
        name: of `--recipe`.
        about: what it measures, and the paper.
        metrics: that have published rows, or belong to them.
        samples: pictures a row.
        teacher_steps: of the teacher's row; empty where the paper's reference is not the teacher.
        published: its rows.
        prompts: the published set that is drawn; None for classes.
        reference: the teacher's row; None where the user has to name a file, which `reference_is` describes.
        reference_is: the file that the paper compares to.
        unsaid: what of the paper's protocol is not known to be the same here.
    """

    name: str
    about: str
    metrics: tuple[str, ...]
    samples: int
    teacher_steps: tuple[int, ...]
    published: tuple[Published, ...]
    prompts: str | None = None
    reference: str | None = TEACHER
    reference_is: str = ""
    unsaid: tuple[str, ...] = ()

    def options(
        self,
        *,
        metrics: Sequence[str] | None,
        samples: int | None,
        prompts: str | None,
        reference: str | None,
        detector: str | None,
        teacher_steps: Sequence[int] | None,
    ) -> Options:
        """The options of a benchmark: what was given, else the paper's.

        Raises:
            DataError: no reference, which nobody but the user has.
        """
        if reference is None and self.reference is None:
            raise DataError(f"{self.name} compares to {self.reference_is}: pass it as --reference")
        return {
            "metrics": metrics or self.metrics,
            "samples": self.samples if samples is None else samples,
            "prompts": prompts or self.prompts,
            "reference": reference or self.reference or TEACHER,
            "detector": detector or INCEPTION_URL,
            "teacher_steps": self.teacher_steps if teacher_steps is None else teacher_steps,
        }

    def beside(self, result: BenchmarkResult) -> BenchmarkResult:
        """The result with the published rows, and with what makes it another protocol's."""
        departures, about = tuple(self._departures(result)), f"{self.name}: {self.about}"
        return replace(result, recipe=about, published=self.published, departures=departures)

    def _departures(self, result: BenchmarkResult) -> list[str]:
        found = []
        if result.samples != self.samples:
            found.append(f"{result.samples} pictures a row, not {self.samples}")
        if self.prompts is not None and SET_NAME.match(result.prompts or "")[0] != self.prompts:
            found.append(f"prompts {result.prompts}, not {self.prompts}")
        if (
            self.prompts is not None
            and result.num_prompts is not None
            and result.num_prompts < min(self.samples, result.samples)
        ):
            found.append(f"{result.num_prompts} prompts, some of them several times")
        if result.detector != INCEPTION_NAME:
            found.append(f"detector {result.detector}, not {INCEPTION_NAME}")
        if self.teacher_steps and not self._is_teacher(result):
            found.append(f"reference {result.reference}, not the teacher at {self.teacher_steps[-1]} steps")
        return [*found, *self.unsaid]

    def _is_teacher(self, result: BenchmarkResult) -> bool:
        return result.reference in result.teacher_rows and result.reference.endswith(f" {self.teacher_steps[-1]} steps")
