"""Opening a student for sampling as a text-to-image base allows: precision, quantisation, offloading, style LoRAs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch

from piflow_cli.core.interfaces import Space, Teacher
from piflow_cli.core.schedule import Shift
from piflow_cli.engine.pipelines import pipeline_of
from piflow_cli.engine.sample.early import EarlyCheck
from piflow_cli.engine.students.device import DTYPES, resolve_device, resolve_dtype
from piflow_cli.engine.students.find import default_student, find_student
from piflow_cli.engine.students.load import LoadedStudent, assemble, change_teacher, on_base, peek_card, read_student
from piflow_cli.engine.students.shared import Bases
from piflow_cli.errors import DeviceError, ModelError
from piflow_cli.formats.student import Recipe, StoredStudent
from piflow_cli.io.hub import HUB_ID
from piflow_cli.io.texts.names import user_path

if TYPE_CHECKING:
    from piflow_cli.engine.pipelines.text import TextPipeline

LORA_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")

PEFT = "peft"
"""The library whose warnings speak of layers and adapters of its own, and mean nothing to whoever names a file."""

Offload = Literal["none", "encoders", "model", "sequential", "group"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def open_student(
    source: str | None = None,
    *,
    nfe: int | None = None,
    base: str | None = None,
    device: str = "auto",
    dtype: Dtype = "auto",
    quantization: str | None = None,
    offload: Offload = "none",
    loras: Sequence[tuple[str, float]] = (),
    recipe: Recipe | None = None,
    bases: Bases | None = None,
    early: EarlyCheck | None = None,
) -> LoadedStudent:
    """Load a student, ready to sample.

    Args:
        source: an embedded student's name, a student or run folder, or a hub id; None is the embedded one for `nfe`.
        nfe: evaluations that it will be sampled with, to choose the embedded student by.
        base: the teacher's folder or hub id, in place of the one that the student names.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: of the networks; auto is bfloat16 for text-to-image students, but on a CPU without instructions for it,
            and float32 for others.
        quantization: of the base: bnb-8bit, bnb-4bit, torchao-int8 or torchao-fp8.
        offload: what waits in main memory while unused: nothing, the text encoders and autoencoder, each model in turn,
            every layer, or groups of layers. The last three are diffusers' own.
        loras: style LoRAs to add, as diffusers loads them, each with its weight.
        recipe: the preset it was made by, for files that do not say enough.
        bases: as `load_student`; not where style LoRAs or offloading change the base.
        early: what will be asked of it, to be refused before weights are read.

    Raises:
        ModelError: missing, damaged, for another base, or of a family that has no such option.
        DeviceError: no such device, or one that cannot offload.
        MissingExtraError: the quantisation's library is not installed.
    """
    check_choices(dtype=dtype, offload=offload)
    check_loras(loras)
    target = resolve_device(device)
    name = source or default_student(nfe)
    stored = _read(name, recipe=recipe, base=base, check=early.student if early is not None else None)
    is_text = stored.card.teacher.students_need_base
    precision = DTYPES[dtype] if dtype != "auto" else _usual_dtype(target) if is_text else torch.float32
    wanted = {"quantization": quantization, "offload_encoders": True if offload == "encoders" else None}
    if not is_text:
        given = [key for key, value in {"quantization": quantization, "loras": list(loras)}.items() if value]
        given += ["offload"] if offload != "none" else []
        if given:
            raise ModelError(f"{', '.join(given)}: {name} is no text-to-image student, and takes no such option")
    waits = offload in ("model", "sequential", "group")
    if waits and target.type == "cpu":
        raise DeviceError(f"offload {offload} moves models between main memory and a GPU; there is none to move to")
    student = assemble(
        stored,
        name=name,
        base=base,
        device="cpu" if waits else target,
        dtype=precision,
        teacher_changes=wanted,
        bases=bases,
    )
    if loras:
        add_loras(student, loras)
    if waits:
        _offload(student, offload, target)
    return student


@dataclass(frozen=True)
class OpenTeacher:
    """A teacher ready to draw, on the time grid of the student it was named by.

    Args:
        name: what its settings call its source.
        teacher: loaded without any student.
        shift: of the student's time grid.
        dtype: of its network.
        warnings: what a user should know.
    """

    name: str
    teacher: Teacher
    shift: Shift
    dtype: torch.dtype
    warnings: tuple[str, ...] = ()

    @property
    def space(self) -> Space:
        """The teacher's."""
        return self.teacher.space


def open_teacher(
    source: str | None = None,
    *,
    base: str | None = None,
    device: str = "auto",
    dtype: Dtype = "auto",
    recipe: Recipe | None = None,
    bases: Bases | None = None,
    early: EarlyCheck | None = None,
) -> OpenTeacher:
    """Load the teacher of a student, ready to draw; the student's weights stay on the disk.

    Args:
        source: the student, as `open_student` takes it.
        base, device, dtype, recipe, bases, early: as `open_student`.

    Raises:
        ModelError: the student or its teacher is missing or damaged.
        DeviceError: no such device.
    """
    check_choices(dtype=dtype)
    target = resolve_device(device)
    name = source or default_student()
    stored = _read(name, recipe=recipe, base=base, check=early.teacher if early is not None else None)
    family = stored.card.teacher if base is None else change_teacher(stored.card.teacher, {"source": base})
    usual = _usual_dtype(target) if family.students_need_base else torch.float32
    precision = usual if dtype == "auto" else DTYPES[dtype]
    load = family.load if bases is None else partial(bases.teacher, family)
    teacher = load(device=target, dtype=precision)
    teacher.name_classes(family.class_names(stored.card.network))
    return OpenTeacher(family.source, teacher, stored.card.sampling.time_shift, precision)


def _read(name: str, *, recipe: Recipe | None, base: str | None, check: Callable[..., None] | None) -> StoredStudent:
    """A stored student; `check` sees its card before its weights are read, in formats that have one beside them."""
    path = find_student(name)
    card = peek_card(path)
    if card is not None and check is not None:
        check(card, on_base(card.teacher, base), name=name)
    stored, _ = read_student(path, recipe=recipe, base=base)
    if card is None and check is not None:
        check(stored.card, on_base(stored.card.teacher, base), name=name)
    return stored


def check_choices(*, dtype: str, offload: str = "none") -> None:
    """Raise ModelError for a precision or a way to offload that there is none of."""
    for what, value, kind in (("offload", offload, Offload), ("dtype", dtype, Dtype)):
        if value not in get_args(kind):
            raise ModelError(f"{what} {value!r} is none of {', '.join(get_args(kind))}")


def _usual_dtype(device: torch.device) -> torch.dtype:
    """Of a text-to-image student: half of the memory, and on a CPU only where that is not slower."""
    return resolve_dtype("auto", device) if device.type == "cpu" else torch.bfloat16


def check_loras(loras: Sequence[tuple[str, float]]) -> None:
    """Refuse LoRA that are missing or have no weight that is a number, before anything is loaded.

    Raises:
        ModelError: a source that is no file or folder here and no hub id, or a weight that is not finite.
    """
    for source, weight in loras:
        if not math.isfinite(weight):
            raise ModelError(f"LoRA {source!r} has the weight {weight}; it has to be a finite number")
        if not _exists(source) and (source.endswith(LORA_SUFFIXES) or not HUB_ID.fullmatch(source)):
            raise ModelError(f"LoRA {source!r} does not exist here and is no hub id (owner/name)")


def _exists(source: str) -> bool:
    try:
        return user_path(source).exists()
    except (OSError, ValueError, RuntimeError):  # a name that no file can have
        return False


def add_loras(student: LoadedStudent, loras: Sequence[tuple[str, float]]) -> None:
    """Add style LoRAs to a text-to-image student; its own stays as it is.

    Args:
        loras: folder, file or hub id of each, and its weight.

    Raises:
        ModelError: a LoRA that is missing, or is not one for this base.
    """
    pipeline = _pipeline(student)
    weights = {}
    for i, (source, weight) in enumerate(loras):
        name = f"style{i}"
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                pipeline.load_lora_weights(source, adapter_name=name)
        except Exception as error:  # hub, network, damage and foreign keys share no ground class
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise ModelError(f"LoRA {source!r} cannot be added: {reason}") from None
        weights[name] = weight
        told = dict.fromkeys(str(w.message) for w in found if PEFT not in Path(w.filename).parts)
        student.warnings += tuple(f"LoRA {source!r}: {message}" for message in told)
    pipeline.set_adapters(list(weights), list(weights.values()))


def _offload(student: LoadedStudent, offload: Offload, device: torch.device) -> None:
    """Hand the placing of models over to diffusers."""
    pipeline = _pipeline(student)
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda")
    student.space.device = device


def _pipeline(student: LoadedStudent) -> TextPipeline:
    """The student as a pipeline of diffusers, which its space uses from now on."""
    if not student.card.teacher.students_need_base:
        raise ModelError(f"{student.name} is no text-to-image student; it takes no LoRA and no offloading")
    return pipeline_of(student)
