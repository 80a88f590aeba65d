"""What the diffusers pipelines of all families share: the student they hold, how it is loaded, saved and called."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Unpack

from torch import Tensor

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.pipelines.interfaces import held_by, hold
from piflow_cli.engine.pipelines.loading import LoadOptions, load_for_pipeline
from piflow_cli.engine.pipelines.saving import SaveOptions, push_student_of, save_student_of
from piflow_cli.engine.students.finite import require_finite_pictures
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.engine.students.settings import sampling_settings
from piflow_cli.errors import ModelError
from piflow_cli.io.hub import HubTarget
from piflow_cli.io.texts.names import user_path

TEXT_TO_IMAGE = "AutoPipelineForText2Image"
"""A class of diffusers that is no ground of what it makes."""
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
        hold(student)
        pipeline = cls._build(student)
        pipeline.student = student
        for warning in student.warnings:
            warnings.warn(warning, stacklevel=3)
        return pipeline

    @classmethod
    def _build(cls, student: LoadedStudent) -> Self:
        """The pipeline over the student's module and the other parts of its base."""
        raise NotImplementedError

    def register_modules(self, **parts: Any) -> None:
        """As diffusers' method, which all ways to make a pipeline go through; the transformer brings its student along.

        Raises:
            ValueError: the transformer is no student's, or one of another family.
        """
        if "transformer" in parts:
            student = held_by(parts["transformer"])
            if student is None or student.card.teacher.type != self.teacher_type:
                what = "no student" if student is None else f"a student of {student.card.teacher.type}"
                raise ValueError(
                    f"the transformer for this {type(self).__name__} holds {what}; make the pipeline by load_pipeline "
                    "or from_pretrained, or of the components of one that was made so"
                )
            self.student = self._taking(student)
        super().register_modules(**parts)

    def _taking(self, student: LoadedStudent) -> LoadedStudent:
        """The student as this pipeline holds it, where it is another one's too."""
        return student

    @property
    def config(self) -> Any:
        """As diffusers' property; refused to those who would make a pipeline of another kind of it.

        Raises:
            ValueError: `from_pipe` of a class that cannot sample this student.
        """
        caller = sys._getframe(1)  # diffusers gives the pipeline that is converted no other say
        target = caller.f_locals.get("cls") if caller.f_code.co_name == "from_pipe" else None
        if target is not None and getattr(target, "teacher_type", None) != self.teacher_type:
            raise ValueError(
                f"{target.__name__} cannot be made of a {type(self).__name__}: what the student's network gives are "
                f"policies, {self._instead(target)}"
            )
        return super().config

    def _instead(self, target: type) -> str:
        """Why a class of pipelines cannot sample the student, and what can be done."""
        if target.__name__ == TEXT_TO_IMAGE or issubclass(type(self), target):
            own = type(self).__name__
            again = f"Call this pipeline as it is, make another one by {own}.from_pipe"
            return f"which that loop cannot sample. {again}, or load the base."
        if self.student is not None and self.student.space.num_pictures[1]:
            own = "Pictures go into its own call (image)"
            return f"and it was trained to draw from noise. {own}, or load the base for this."
        return "and it was trained to draw from noise alone. Load the base for this, or for its own class."

    @classmethod
    def from_pretrained(cls, student: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Load a student; arguments and errors as `load_pipeline`."""
        return cls.of(load_for_pipeline(str(student), **options))

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        *,
        save_base: bool = False,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> None:
        """Write the student's folder, which `from_pretrained`, `load_pipeline` and the command line read.

        Style LoRA is not part of it. The folder notes a local base, so that it loads again here without `base`.

        Args:
            save_directory: a new or empty folder, or one of a student, which is replaced.
            safe_serialization: the student's weights are safetensors anyway.
            variant, max_shard_size: of the base's files; the student's weights are one file.
            push_to_hub: upload the student too, as `push_to_hub` does with the arguments after `save_base`.
            save_base: put the base beside it too, so that the folder needs nothing else anywhere.
            repo_id: where to on the hub; the folder's name by default.

        Raises:
            ValueError: style LoRA or projections are fused into the weights, or offloading has moved them away.
            StorageError: something else is in the folder, or it cannot be written.
        """
        options = _save_options(safe_serialization, save_base=save_base, variant=variant, max_shard_size=max_shard_size)
        folder = user_path(save_directory)
        save_student_of(self, folder, options)
        if push_to_hub:
            target = HubTarget(
                repo_id or folder.absolute().name,
                message=commit_message,
                private=private,
                token=token,
                create_pr=create_pr,
            )
            push_student_of(self, target, options)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
        *,
        save_base: bool = False,
        max_shard_size: int | str | None = None,
    ) -> Any:
        """Upload the student's folder, and what says how to load it; arguments as `save_pretrained`.

        Where a base is on this machine is not told. Returns what the hub says of the commit.

        Raises:
            ValueError: as `save_pretrained`.
            ModelError: the hub cannot be reached, or does not take it.
        """
        options = _save_options(safe_serialization, save_base=save_base, variant=variant, max_shard_size=max_shard_size)
        target = HubTarget(
            repo_id, subfolder=subfolder, message=commit_message, private=private, token=token, create_pr=create_pr
        )
        return push_student_of(self, target, options)

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
        if getattr(self.transformer, "_orig_mod", self.transformer) is not self.student.network.module:
            raise ValueError("pipe.transformer is not the student's any more; load the pipeline again")
        self._interrupt, self._current_timestep = False, None
        return self.student

    def _finite(self, pictures: Tensor) -> Tensor:
        """The pictures that were decoded, refused by a SamplingError where they hold NaN or infinity."""
        return require_finite_pictures(pictures, name=self.student.name, dtype=pictures.dtype, option="torch_dtype")

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


def _save_options(
    safe_serialization: bool, *, save_base: bool, variant: str | None, max_shard_size: int | str | None
) -> SaveOptions:
    if not safe_serialization:
        warnings.warn("students are saved as safetensors, whatever safe_serialization says", stacklevel=3)
    if variant is not None and not save_base:
        warnings.warn(f"variant {variant!r} is of the base's files; without save_base there are none", stacklevel=3)
    return SaveOptions(save_base=save_base, variant=variant, max_shard_size=max_shard_size)
