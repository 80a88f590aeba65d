"""Who draws: a student by its policies, or its teacher by Euler steps from the same noise.

Shapes: B batch, C latent channels, S spatial dims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor

from piflow_cli.core.interfaces import Condition, Space, Teacher
from piflow_cli.core.sampling import Stopwatch, sample_euler, sample_student, timed
from piflow_cli.core.schedule import Shift
from piflow_cli.core.settings import SamplingSettings, Settings
from piflow_cli.engine.sample.request import TextRequest
from piflow_cli.engine.students.load import LoadedStudent

OnStep = Callable[[int, Tensor], None]
"""Called with (evaluations done, latents)."""


class TeacherSampling(Settings):
    """How a teacher is sampled."""

    nfe: int = Field(ge=1, le=1000, description="Euler steps")
    shift: float = Field(1.0, gt=0, le=100, description="of the time grid")


class Artist(Protocol):
    """What a request needs of whoever draws it."""

    name: str
    space: Space
    settings: SamplingSettings | TeacherSampling
    dtype: torch.dtype

    def draw(
        self,
        noise: Tensor,
        condition: Condition,
        *,
        generators: Sequence[torch.Generator],
        stopwatch: Stopwatch,
        on_step: OnStep,
        negative: Condition | None = None,
    ) -> Tensor:
        """Latents (B, C, *S) of noise (B, C, *S), steered away from `negative` where a student can be."""
        ...


@dataclass(frozen=True)
class StudentArtist:
    """A student, sampled with `settings`, and guided away from a negative prompt where one is asked for."""

    student: LoadedStudent
    settings: SamplingSettings
    asked: TextRequest

    @property
    def name(self) -> str:
        """The student's."""
        return self.student.name

    @property
    def space(self) -> Space:
        """The student's."""
        return self.student.space

    @property
    def dtype(self) -> torch.dtype:
        """Of the student's own weights."""
        return self.student.dtype

    def draw(
        self,
        noise: Tensor,
        condition: Condition,
        *,
        generators: Sequence[torch.Generator],
        stopwatch: Stopwatch,
        on_step: OnStep,
        negative: Condition | None = None,
    ) -> Tensor:
        """As `sample_student`."""
        return sample_student(
            self.student.network,
            self.student.card.policy,
            noise,
            condition,
            settings=self.settings,
            generator=generators,
            stopwatch=stopwatch,
            on_step=on_step,
            policy_at=self.asked.policy_at(self.student, condition, negative),
        )


@dataclass(frozen=True)
class TeacherArtist:
    """A teacher, guided as its student learnt it.

    Args:
        name: what the teacher's settings call its source.
        teacher: loaded apart from any student.
        settings: steps and shift.
        dtype: of its network.
    """

    name: str
    teacher: Teacher
    settings: TeacherSampling
    dtype: torch.dtype

    @property
    def space(self) -> Space:
        """The teacher's."""
        return self.teacher.space

    def draw(
        self,
        noise: Tensor,
        condition: Condition,
        *,
        generators: Sequence[torch.Generator],  # noqa: ARG002  (an ODE draws nothing on its way)
        stopwatch: Stopwatch,
        on_step: OnStep,
        negative: Condition | None = None,  # noqa: ARG002  (its own is in its settings)
    ) -> Tensor:
        """As `sample_euler`."""

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            u, seconds = timed(lambda: self.teacher.velocity(x, sigma, condition), x.device)
            stopwatch.network_s += seconds
            return u

        steps, shift = self.settings.nfe, Shift(self.settings.shift)
        return sample_euler(velocity, noise, num_steps=steps, shift=shift, on_step=on_step)
