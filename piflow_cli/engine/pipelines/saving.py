"""Writing a pipeline's student, with its base where that is asked for, into a folder or onto the hub."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from piflow_cli.core.adapter import STUDENT
from piflow_cli.engine.pipelines.interfaces import HoldsStudent
from piflow_cli.engine.pipelines.loading import BASE, NOTE
from piflow_cli.engine.pipelines.style.layers import has_fused_projections, lora_layers
from piflow_cli.engine.students.load import PLACE_KEYS, LoadedStudent
from piflow_cli.engine.students.model_card import model_card
from piflow_cli.engine.students.save import anchored, write_student
from piflow_cli.errors import StorageError
from piflow_cli.formats.native import CARD, NativeFormat
from piflow_cli.formats.student import StoredStudent
from piflow_cli.io.files import atomic_folder, write_atomic
from piflow_cli.io.hub import HubTarget, fetch_part, locate, upload

TRANSFORMER = "transformer"
WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class SaveOptions:
    """diffusers' keywords of saving, and ours.

    Args:
        save_base: put the base beside the student.
        variant: of the base's files.
        max_shard_size: of the base's files.
        note_folder: note where a base in a folder of this machine is.
    """

    save_base: bool = False
    variant: str | None = None
    max_shard_size: int | str | None = None
    note_folder: bool = True


def save_student_of(pipeline: HoldsStudent, target: Path, options: SaveOptions) -> None:
    """Write what `StudentPipeline.save_pretrained` says, whole or not at all."""
    student = _check_savable(pipeline)
    _check_target(target, student, save_base=options.save_base)
    with atomic_folder(target) as partial:
        _write(pipeline, student, partial, options)


def push_student_of(pipeline: HoldsStudent, hub: HubTarget, options: SaveOptions) -> Any:
    """Write the student's folder somewhere of its own and upload it; what the hub says of it.

    Raises:
        ValueError: as `save_student_of`.
        ModelError: the hub cannot be reached, or does not take it.
    """
    student = _check_savable(pipeline)
    with tempfile.TemporaryDirectory() as folder:
        _write(pipeline, student, Path(folder), replace(options, note_folder=False))
        write_atomic(Path(folder) / "README.md", model_card(student.card, place=hub.place))
        return upload(Path(folder), hub)


def _check_savable(pipeline: HoldsStudent) -> LoadedStudent:
    """The pipeline's student.

    Raises:
        ValueError: it holds none, or its weights are not as they were loaded.
    """
    student = pipeline.student
    if student is None:
        raise ValueError("this pipeline holds no student to save")
    if fused := getattr(pipeline, "fused_loras", None):
        raise ValueError(
            f"{', '.join(sorted(fused))} is fused into the weights and is no part of the student: unfuse_lora, or load "
            "the pipeline again where it was unloaded since"
        )
    if has_fused_projections(student.network.module):
        raise ValueError("projections are fused: call pipe.transformer.unfuse_qkv_projections() before saving")
    if any(parameter.is_meta for parameter in student.network.parameters()):
        raise ValueError("offloading has moved the weights away; call remove_all_hooks, or save before it is enabled")
    return student


def _write(pipeline: HoldsStudent, student: LoadedStudent, folder: Path, options: SaveOptions) -> None:
    """Write the student into an empty folder, and its base, or a note of where that is."""
    stored = StoredStudent(card=student.card, weights=own_weights(student))
    needs_base = student.card.teacher.students_need_base
    write_student(stored, folder, NativeFormat(), vae=None if needs_base else pipeline.vae)
    if not needs_base:
        return
    note = _note_of(student, options)
    if options.save_base:
        _save_base(pipeline, folder / BASE, options)
    if note:
        write_atomic(folder / NOTE, json.dumps(note, indent=2) + "\n")


def _note_of(student: LoadedStudent, options: SaveOptions) -> dict[str, str]:
    """Where the base of what is saved is, and how it lies there; empty where that is not to be told."""
    if options.save_base:
        return {BASE: BASE} | ({"variant": options.variant} if options.variant is not None else {})
    settings = anchored(student.space.settings)
    source, place = locate(settings.source), settings.model_dump(include=set(PLACE_KEYS), exclude_none=True)
    if options.note_folder:
        return {BASE: str(source.resolve()) if isinstance(source, Path) else source} | place
    if isinstance(source, Path) or any(Path(value).exists() for value in place.values()):
        return {}
    return {BASE: source} | place


def own_weights(student: LoadedStudent) -> dict[str, Tensor]:
    """The student's weights by the names they are stored under, whatever style LoRA stands around them."""
    return {
        name.replace(".base_layer.", "."): parameter.detach().cpu()
        for name, parameter in student.network.own_parameters().items()
        if ".lora_" not in name or name.endswith((".lora_A.weight", ".lora_B.weight"))
    }


def _check_target(target: Path, student: LoadedStudent, *, save_base: bool) -> None:
    """Refuse to replace anything but a student, and a base that is in use."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / CARD).is_file():
        raise StorageError(f"{target} holds something else than a student; choose another folder")
    source = locate(student.space.settings.source) if student.card.teacher.students_need_base else None
    if isinstance(source, Path) and target.resolve() in source.resolve().parents and not save_base:
        raise StorageError(f"{target} holds the base of this pipeline; choose another folder, or save_base=True")


def _save_base(pipeline: HoldsStudent, folder: Path, options: SaveOptions) -> None:
    """Write the base as an ordinary diffusers pipeline.

    Raises:
        ValueError: a quantised base.
    """
    student, settings = pipeline.student, pipeline.student.space.settings
    if settings.quantization != "none":
        raise ValueError(f"the base is quantised ({settings.quantization}); save without save_base")
    if any(lora_layers(part) for name, part in pipeline.components.items() if name.startswith("text_encoder")):
        raise ValueError("a text encoder carries style LoRA; unload_lora_weights, or save without save_base")
    if student.teacher is not None:
        transformer = settings.build(student.teacher.network["config"])
        transformer.load_state_dict(_base_weights(student.network.module), assign=True)
    else:  # the student has all the weights: the base's own are not loaded
        transformer = settings.build(student.card.network["config"])
    held = student.teacher is not None
    parts = pipeline.components | {TRANSFORMER: transformer if held else None}
    saved = student.space.base_class(**parts)
    shards = {"max_shard_size": options.max_shard_size} if options.max_shard_size is not None else {}
    saved.save_pretrained(folder, variant=options.variant, **shards)
    if not held:
        _copy_transformer(transformer, settings.source, saved, folder)


def _copy_transformer(module: Any, source: str, saved: Any, folder: Path) -> None:
    """Put the base's own transformer, as its source has it, beside the parts that are written."""
    found = fetch_part(source, TRANSFORMER)
    if found is not None and any(path for pattern in WEIGHTS for path in found.glob(pattern)):
        shutil.copytree(found, folder / TRANSFORMER)
        saved.register_modules(transformer=module)
        saved.save_config(folder)
        return
    module.save_config(folder / TRANSFORMER)
    warnings.warn(
        f"{source} has no weights of the base's transformer, so that the student loads from this folder, but the base "
        "alone does not",
        stacklevel=7,
    )


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
