"""Students as pipelines of diffusers: `from piflow_cli import load_pipeline`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from piflow_cli.engine.pipelines.loading import LoadOptions, load_for_pipeline
from piflow_cli.engine.students.load import LoadedStudent

if TYPE_CHECKING:
    from piflow_cli.engine.pipelines.student import StudentPipeline

PIPELINES = {
    "flux": "piflow_cli.engine.pipelines.flux:PiFluxPipeline",
    "qwen_image": "piflow_cli.engine.pipelines.qwen_image:PiQwenImagePipeline",
    "dit": "piflow_cli.engine.pipelines.dit:PiDiTPipeline",
}
"""Those that are written out, by `type` of the teacher, imported when used; all others are called as their base is."""


def load_pipeline(student: str | Path, **options: Unpack[LoadOptions]) -> StudentPipeline:
    """A student as a pipeline that is called like its base's own.

    Args:
        student: an embedded student's name, a student or run folder, a released adapter, or a hub id
            (owner/name/folder).
        options: `base`, `torch_dtype`, `device` and further ones, see `LoadOptions`.

    Raises:
        ModelError: missing, damaged, or for a base of another architecture.
        DeviceError: no such device.
        TypeError: an unknown option.
    """
    return pipeline_of(load_for_pipeline(str(student), **options))


def pipeline_of(student: LoadedStudent) -> StudentPipeline:
    """The pipeline of a student that is loaded already; it shares the student's module and the parts of its base."""
    teacher = student.card.teacher
    if teacher.type in PIPELINES:
        module, name = PIPELINES[teacher.type].split(":")
        return getattr(import_module(module), name).of(student)
    from piflow_cli.engine.pipelines.called import pipeline_class

    return pipeline_class(type(teacher), student.space.base_class).of(student)
