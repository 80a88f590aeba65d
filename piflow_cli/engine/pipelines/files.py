"""Loading a student for a diffusers pipeline, and writing a pipeline's student, with its base where that is asked for.

A folder that a pipeline wrote is a native student's with two additions: pipeline.json, which notes where its base is,
and base/, the base itself where it was saved too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from piflow_cli.core.adapter import STUDENT
from piflow_cli.engine.pipelines.interfaces import HoldsStudent
from piflow_cli.engine.pipelines.style.layers import lora_layers
from piflow_cli.engine.students.device import resolve_device
from piflow_cli.engine.students.find import find_student
from piflow_cli.engine.students.load import PLACE_KEYS, LoadedStudent, assemble, read_student
from piflow_cli.engine.students.save import anchored, write_student
from piflow_cli.errors import ModelError, PiflowError, StorageError
from piflow_cli.formats.native import CARD, NativeFormat
from piflow_cli.formats.student import StoredStudent
from piflow_cli.io.files import atomic_folder
from piflow_cli.io.hub import locate
from piflow_cli.io.weights import read_json
from piflow_cli.preset import load_preset

NOTE, BASE = "pipeline.json", "base"
TRANSFORMER = "transformer"


class LoadOptions(TypedDict, total=False):
    """How a pipeline is loaded; what is left out or None is the default."""

    base: str | Path | None
    """Folder or hub id of the base, in place of the one that the student names."""
    torch_dtype: torch.dtype | None
    """Of all parts; float32 by default. Latents and policies are float32 anyway."""
    dtype: torch.dtype | None
    """The same by diffusers' newer name."""
    device: str | None
    """Where to: cpu (default), cuda, cuda:N, mps or auto."""
    preset: str | None
    """What the student was trained by, where its files do not say it."""
    transformer: str | None
    """Another transformer for the base: a folder, or a .safetensors or .gguf file."""
    quantization: str | None
    """Of the base's transformer: bnb-8bit, bnb-4bit, torchao-int8 or torchao-fp8."""
    device_map: str | None
    """diffusers' device map over several devices."""
    variant: str | None
    """Weight variant of the base, such as fp16."""
    revision: str | None
    """Hub revision of the base."""
    local_files_only: bool | None
    """Never ask the hub for the base."""


OWN_OPTIONS = ("base", "torch_dtype", "dtype", "device", "preset")
"""Options that are no settings of the teacher."""


def load_for_pipeline(source: str, **options: Any) -> LoadedStudent:
    """The student of a source, every part of its base on one device unless a device map says otherwise.

    Raises:
        TypeError: an unknown option.
        ModelError, DeviceError, PresetError: as `load_student`.
    """
    if unknown := [name for name in options if name not in LoadOptions.__annotations__]:
        known = ", ".join(LoadOptions.__annotations__)
        raise TypeError(f"{unknown[0]!r} is no option of loading a student; there are {known}")
    path, preset = find_student(source), options.get("preset")
    stored, _ = read_student(path, recipe=load_preset(preset) if preset is not None else None)
    changes = {name: value for name, value in options.items() if name not in OWN_OPTIONS}
    base = options.get("base")
    if base is None and (noted := _noted_base(path)):
        base = noted.pop(BASE)
        changes = noted | {name: value for name, value in changes.items() if value is not None}
    if "offload_encoders" in type(stored.card.teacher).model_fields:
        changes["offload_encoders"] = False  # diffusers' own offloading is there for that
    elif base is not None:
        raise ModelError(f"students of {stored.card.teacher.type} teachers hold all their weights; they take no base")
    return assemble(
        stored,
        name=source,
        base=str(base) if base is not None else None,
        device=resolve_device(options.get("device") or "cpu"),
        dtype=options.get("torch_dtype") or options.get("dtype") or torch.float32,
        teacher_changes=changes,
    )


def _noted_base(folder: Path) -> dict[str, str]:
    """The base that a saved pipeline notes, where it is still there, with the settings that say how it lies there."""
    if not (folder / NOTE).is_file():
        return {}
    note = {key: str(value) for key, value in read_json(folder / NOTE).items() if key in (BASE, *PLACE_KEYS)}
    noted = note.get(BASE, "")
    if (folder / noted / "model_index.json").is_file():  # an absolute path stays one
        return note | {BASE: str(folder / noted)}
    try:
        return note if isinstance(locate(noted), str) else {}
    except PiflowError:
        return {}


def save_student_of(pipeline: HoldsStudent, target: Path, *, save_base: bool) -> None:
    """Write what `StudentPipeline.save_pretrained` says, whole or not at all."""
    student = pipeline.student
    if student is None:
        raise ValueError("this pipeline holds no student to save")
    if fused := getattr(pipeline, "fused_loras", None):
        raise ValueError(
            f"{', '.join(sorted(fused))} is fused into the weights and is no part of the student: unfuse_lora"
        )
    if any(parameter.is_meta for parameter in student.network.parameters()):
        raise ValueError("offloading has moved the weights away; call remove_all_hooks, or save before it is enabled")
    _check_target(target, student, save_base=save_base)
    stored = StoredStudent(card=student.card, weights=own_weights(student))
    vae = None if _has_base(student) else pipeline.vae
    with atomic_folder(target) as partial:
        write_student(stored, partial, NativeFormat(), vae=vae)
        if not _has_base(student):
            return
        source = locate(student.space.settings.source)
        settings = anchored(student.space.settings)
        note = {BASE: str(source.resolve()) if isinstance(source, Path) else source}
        note |= settings.model_dump(include=set(PLACE_KEYS), exclude_none=True)
        if save_base:
            _save_base(pipeline, partial / BASE)
            note = {BASE: BASE}
        (partial / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def own_weights(student: LoadedStudent) -> dict[str, Tensor]:
    """The student's weights by the names they are stored under, whatever style LoRA stands around them."""
    return {
        name.replace(".base_layer.", "."): parameter.detach().cpu()
        for name, parameter in student.network.own_parameters().items()
        if ".lora_" not in name or name.endswith((".lora_A.weight", ".lora_B.weight"))
    }


def _has_base(student: LoadedStudent) -> bool:
    """Whether the student is used with parts of a base, as text-to-image students are."""
    return hasattr(student.space, "pipeline")


def _check_target(target: Path, student: LoadedStudent, *, save_base: bool) -> None:
    """Refuse to replace anything but a student, and a base that is in use."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / CARD).is_file():
        raise StorageError(f"{target} holds something else than a student; choose another folder")
    source = locate(student.space.settings.source) if _has_base(student) else None
    if isinstance(source, Path) and target.resolve() in source.resolve().parents and not save_base:
        raise StorageError(f"{target} holds the base of this pipeline; choose another folder, or save_base=True")


def _save_base(pipeline: HoldsStudent, folder: Path) -> None:
    """Write the base as an ordinary diffusers pipeline, without weights of the transformer where the student has all.

    Raises:
        ValueError: a quantised base.
    """
    import diffusers

    student, settings = pipeline.student, pipeline.student.space.settings
    if settings.quantization != "none":
        raise ValueError(f"the base is quantised ({settings.quantization}); save without save_base")
    if any(lora_layers(part) for name, part in pipeline.components.items() if name.startswith("text_encoder")):
        raise ValueError("a text encoder carries style LoRA; unload_lora_weights, or save without save_base")
    transformer = None
    if student.teacher is not None:
        transformer = settings.build(student.teacher.network["config"])
        transformer.load_state_dict(_base_weights(student.network.module), assign=True)
    parts = pipeline.components | {TRANSFORMER: transformer}
    getattr(diffusers, settings.pipeline_class)(**parts).save_pretrained(folder)
    if transformer is None:
        settings.build(student.card.network["config"]).save_config(folder / TRANSFORMER)


def _base_weights(module: nn.Module) -> dict[str, Tensor]:
    """The base's own weights in an adapted module, by their plain names."""
    weights = {}
    for name, tensor in module.state_dict().items():
        if ".lora_" in name or f".{STUDENT}." in name:
            continue
        if not tensor.is_floating_point():
            raise ValueError(f"the base is quantised ({name} is {tensor.dtype}); save without save_base")
        weights[name.replace(".teacher.", ".").replace(".base_layer.", ".")] = tensor
    return weights
