"""Opening a student for sampling as a text-to-image base allows: precision, quantisation, offloading, style LoRAs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch

from piflow_cli.engine.pipelines import pipeline_of
from piflow_cli.engine.students.device import DTYPES, resolve_device, resolve_dtype
from piflow_cli.engine.students.find import default_student, find_student
from piflow_cli.engine.students.load import LoadedStudent, assemble, read_student
from piflow_cli.engine.students.shared import Bases
from piflow_cli.errors import DeviceError, ModelError
from piflow_cli.formats.student import Recipe

if TYPE_CHECKING:
    from piflow_cli.engine.pipelines.text import TextPipeline

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

    Raises:
        ModelError: missing, damaged, for another base, or of a family that has no such option.
        DeviceError: no such device, or one that cannot offload.
        MissingExtraError: the quantisation's library is not installed.
    """
    for what, value, kind in (("offload", offload, Offload), ("dtype", dtype, Dtype)):
        if value not in get_args(kind):
            raise ModelError(f"{what} {value!r} is none of {', '.join(get_args(kind))}")
    target = resolve_device(device)
    name = source or default_student(nfe)
    stored, _ = read_student(find_student(name), recipe=recipe, base=base)
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


def _usual_dtype(device: torch.device) -> torch.dtype:
    """Of a text-to-image student: half of the memory, and on a CPU only where that is not slower."""
    return resolve_dtype("auto", device) if device.type == "cpu" else torch.bfloat16


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
            pipeline.load_lora_weights(source, adapter_name=name)
        except Exception as error:  # hub, network, damage and foreign keys share no ground class
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise ModelError(f"LoRA {source!r} cannot be added: {reason}") from None
        weights[name] = weight
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
