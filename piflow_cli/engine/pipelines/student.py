"""What the diffusers pipelines of all families share: the student they hold, how it is loaded, saved and called."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Unpack

from torch import Tensor

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.pipelines.files import LoadOptions, load_for_pipeline, save_student_of
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.engine.students.settings import sampling_settings
from piflow_cli.errors import ModelError

OUTPUT_TYPES = ("pil", "pt", "np", "latent")

Callback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]]
"""(pipeline, index, timestep, tensors) -> tensors to go on with, as in diffusers."""


class StudentPipeline:
    """A pipeline of diffusers whose transformer is a student; comes before diffusers' class among the bases.

    `student` says what it is: its card, its policy, and how it was trained to be sampled.
    """

    teacher_type: ClassVar[str]
    """The family of teachers whose students it samples."""

    student: LoadedStudent | None = None
    _interrupt = False
    _num_timesteps = 0
    _current_timestep: Tensor | None = None

    @classmethod
    def of(cls, student: LoadedStudent) -> Self:
        """The pipeline of a loaded student.

        Raises:
            ModelError: it is of another family.
        """
        if student.card.teacher.type != cls.teacher_type:
            raise ModelError(
                f"{student.name} is a student of a {student.card.teacher.type} teacher, but {cls.__name__} is for "
                f"students of {cls.teacher_type}; load_pipeline chooses by itself"
            )
        pipeline = cls._build(student)
        pipeline.student = student
        for warning in student.warnings:
            warnings.warn(warning, stacklevel=3)
        return pipeline

    @classmethod
    def _build(cls, student: LoadedStudent) -> Self:
        """The pipeline over the student's module and the other parts of its base."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, student: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Load a student; arguments and errors as `load_pipeline`."""
        return cls.of(load_for_pipeline(str(student), **options))

    def save_pretrained(self, save_directory: str | Path, *, save_base: bool = False) -> None:
        """Write the student's folder, which `from_pretrained`, `load_pipeline` and the command line read.

        Style LoRA is not part of it. The folder notes a local base, so that it loads again here without `base`.

        Args:
            save_directory: a new or empty folder, or one of a student, which is replaced.
            save_base: put the base beside it too, so that the folder needs nothing else anywhere.

        Raises:
            ValueError: style LoRA is fused into the weights, or offloading has moved them away.
            StorageError: something else is in the folder, or it cannot be written.
        """
        save_student_of(self, Path(save_directory).expanduser(), save_base=save_base)

    @property
    def interrupt(self) -> bool:
        """Whether to leave out the evaluations that are left; callbacks set `_interrupt`."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Evaluations of the last call."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """1000 sigma of the evaluation in progress."""
        return self._current_timestep

    def _begin(self, output_type: str, **refused: object) -> LoadedStudent:
        """The student, after the checks that every call begins with.

        Args:
            output_type: as asked for.
            refused: arguments of the base's pipeline that mean nothing to a student, as they were passed.

        Raises:
            ValueError: an argument that is not supported, or a pipeline without a student.
        """
        for name, value in refused.items():
            if value is not None:
                raise ValueError(f"{name} is an argument of the base's pipeline that its students do not support")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type {output_type!r} is not known; one of {', '.join(OUTPUT_TYPES)}")
        if self.student is None:
            raise ValueError(
                f"this {type(self).__name__} holds no student; make it by load_pipeline or from_pretrained"
            )
        if getattr(self.transformer, "_orig_mod", self.transformer) is not self.student.network.module:
            raise ValueError("pipe.transformer is not the student's any more; load the pipeline again")
        self._interrupt, self._current_timestep = False, None
        return self.student

    def _settings(
        self,
        *,
        nfe: int | None,
        substeps: int | None,
        temperature: float | Literal["auto"] | None,
        h: float | None,
    ) -> SamplingSettings:
        """The student's own settings with changes; what they may do to pictures is warned of."""
        settings, notes = sampling_settings(self.student, nfe=nfe, substeps=substeps, temperature=temperature, h=h)
        for note in notes:
            warnings.warn(note, stacklevel=4)  # over the call, and over torch.no_grad around it
        return settings
