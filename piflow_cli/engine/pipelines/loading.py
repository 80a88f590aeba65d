"""Loading a student for a diffusers pipeline, with the keywords that diffusers' users know.

A folder that a pipeline wrote is a native student's with two additions: pipeline.json, which notes where its base is,
and base/, the base itself where it was saved too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import nn

from piflow_cli.engine.students.device import resolve_device
from piflow_cli.engine.students.find import find_student
from piflow_cli.engine.students.load import PLACE_KEYS, LoadedStudent, assemble, read_student
from piflow_cli.errors import ModelError, PiflowError
from piflow_cli.formats.student import StoredStudent
from piflow_cli.io.hub import HubAccess, fetch_base, locate
from piflow_cli.io.tensors.files import open_tensors
from piflow_cli.io.weights import read_json
from piflow_cli.preset import load_preset

NOTE, BASE = "pipeline.json", "base"

DType = torch.dtype | Literal["auto"] | dict[str, torch.dtype]


class LoadOptions(TypedDict, total=False):
    """How a pipeline is loaded; what is left out or None is the default."""

    base: str | Path | None
    """Folder or hub id of the base, in place of the one that the student names."""
    torch_dtype: DType | None
    """Of all parts, or by part with "default" for the others; float32 by default, "auto" is how the base is stored.
    Latents and policies are float32 anyway."""
    dtype: DType | None
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
    """Never ask the hub."""
    token: str | bool | None
    """Of the hub, for the student and its base."""
    cache_dir: str | Path | None
    """Where downloads of both are kept, in place of the hub's own cache."""
    force_download: bool | None
    """Download both again."""
    use_safetensors: bool | None
    """Whether the base's weights have to be safetensors; a student's are."""
    vae: nn.Module | None
    """Parts in place of the base's, or None to go without: these and the next ones."""
    text_encoder: nn.Module | None
    text_encoder_2: nn.Module | None
    tokenizer: Any
    tokenizer_2: Any
    scheduler: Any


OWN_OPTIONS = ("base", "torch_dtype", "dtype", "device", "preset")
HUB_OPTIONS = ("token", "cache_dir", "force_download", "use_safetensors")
PARTS = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
"""Options that are no settings of the teacher, by what they are for."""


def load_for_pipeline(source: str, **options: Any) -> LoadedStudent:
    """The student of a source, every part of its base on one device unless a device map says otherwise.

    Raises:
        TypeError: an unknown option, or one of another kind.
        ModelError, DeviceError, PresetError: as `load_student`.
    """
    _check_options(options)
    access = HubAccess(
        token=options.get("token"),
        cache_dir=options.get("cache_dir"),
        force_download=bool(options.get("force_download")),
        local_files_only=bool(options.get("local_files_only")),
    )
    path, preset = find_student(source, access=access), options.get("preset")
    stored, _ = read_student(path, recipe=load_preset(preset) if preset is not None else None)
    parts = {name: options[name] for name in PARTS if name in options}
    special = (*OWN_OPTIONS, *HUB_OPTIONS, *PARTS)
    changes = {name: value for name, value in options.items() if name not in special}
    if stored.card.teacher.students_need_base:
        changes["offload_encoders"] = False  # diffusers' own offloading is there for that
        base, noted = _base_of(path, options)
        changes = noted | {name: value for name, value in changes.items() if value is not None}
        fetched = _fetched(base or stored.card.teacher.source, access, options)
    else:
        base = fetched = None
        if options.get("base") is not None:
            raise ModelError(
                f"students of {stored.card.teacher.type} teachers hold all their weights; they take no base"
            )
    asked = options.get("torch_dtype") or options.get("dtype") or torch.float32
    dtypes = _dtypes(asked, fetched or base or stored.card.teacher.source, stored)
    student = assemble(
        stored,
        name=source,
        base=fetched or base,
        device=resolve_device(options.get("device") or "cpu"),
        dtype=dtypes.get("transformer", dtypes["default"]),
        teacher_changes=changes,
    )
    if fetched is not None:
        _name_base(student, base or stored.card.teacher.source)
    _put_parts(student, parts, dtypes)
    return student


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise TypeError for an option that there is not, or a transformer that is no file."""
    if unknown := [name for name in options if name not in LoadOptions.__annotations__]:
        known = ", ".join(LoadOptions.__annotations__)
        raise TypeError(f"{unknown[0]!r} is no option of loading a student; there are {known}")
    if isinstance(options.get("transformer"), nn.Module):
        raise TypeError("transformer takes a folder or a file of the base's; a pipeline's transformer is the student")


def _base_of(folder: Path, options: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """The base that is asked for, or that a saved pipeline notes where it is still there; and how it lies there."""
    if (asked := options.get("base")) is not None:
        return str(asked), {}
    if not (folder / NOTE).is_file():
        return None, {}
    note = {key: str(value) for key, value in read_json(folder / NOTE).items() if key in (BASE, *PLACE_KEYS)}
    noted = note.pop(BASE, "")
    if (folder / noted / "model_index.json").is_file():  # an absolute path stays one
        return str(folder / noted), note
    try:
        return (noted, note) if isinstance(locate(noted), str) else (None, {})
    except PiflowError:
        return None, {}


def _fetched(base: str, access: HubAccess, options: Mapping[str, Any]) -> str | None:
    """The local folder of a base on the hub, where options say how to get it that its teacher has no setting for."""
    wanted = any(options.get(name) is not None for name in HUB_OPTIONS) or "auto" in _asked_dtypes(options)
    if not wanted or isinstance(locate(base), Path):
        return None
    found = {name: options.get(name) for name in ("revision", "variant", "use_safetensors")}
    return str(fetch_base(base, access, **found))


def _asked_dtypes(options: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(options.get(name) for name in ("torch_dtype", "dtype"))


def _name_base(student: LoadedStudent, base: str) -> None:
    """Call a base by its hub id, not by the folder that it was downloaded to."""
    student.space.settings = student.space.settings.model_copy(update={"source": base})
    if base == student.card.teacher.source:
        student.warnings = ()


def _dtypes(asked: DType, base: str, stored: StoredStudent) -> dict[str, torch.dtype]:
    """dtypes by part, with "default" for the others.

    Raises:
        TypeError: neither dtypes nor "auto".
    """
    if isinstance(asked, torch.dtype):
        return {"default": asked}
    if asked == "auto":
        return {"default": _stored_dtype(base, stored)}
    if isinstance(asked, dict) and all(isinstance(dtype, torch.dtype) for dtype in asked.values()):
        return {"default": torch.float32} | asked
    raise TypeError(f"torch_dtype {asked!r} is none; pass a torch.dtype, 'auto', or a dict of them by part")


def _stored_dtype(base: str, stored: StoredStudent) -> torch.dtype:
    """What the base's transformer is stored in, or the student where it is no folder with weights."""
    place = locate(base) if stored.card.teacher.students_need_base else None
    files = sorted((place / "transformer").glob("*.safetensors")) if isinstance(place, Path) else []
    if not files or stored.card.adapter is None:
        return next(iter(stored.weights.values())).dtype
    with open_tensors(files[0]) as file:
        return file.get_tensor(next(iter(file.keys()))).dtype


def _put_parts(student: LoadedStudent, parts: Mapping[str, Any], dtypes: Mapping[str, torch.dtype]) -> None:
    """Parts in the place of the base's, and the others in the dtypes asked for.

    Raises:
        TypeError: a part that pipelines of this family have not.
    """
    if not student.card.teacher.students_need_base:
        if unknown := [name for name in parts if name != "vae"]:
            raise TypeError(f"students of {student.card.teacher.type} teachers have no {', '.join(unknown)}")
        if "vae" in parts:
            student.space.vae = parts["vae"]
        return
    pipeline = student.space.pipeline
    if unknown := [name for name in parts if name not in pipeline.components]:
        raise TypeError(
            f"{type(pipeline).__name__} has no {', '.join(unknown)}; it has {', '.join(pipeline.components)}"
        )
    usual = dtypes.get("transformer", dtypes["default"])
    for name, part in pipeline.components.items():
        wanted = dtypes.get(name, dtypes["default"])
        if name in parts:
            setattr(pipeline, name, parts[name])
        elif name != "transformer" and isinstance(part, nn.Module) and wanted != usual:
            setattr(pipeline, name, _in_dtype(part, name, student, wanted))


def _in_dtype(part: nn.Module, name: str, student: LoadedStudent, dtype: torch.dtype) -> nn.Module:
    """A part of the base in another dtype: read again, so that no digit is lost on the way."""
    settings = student.space.settings
    options = {"variant": settings.variant, "revision": settings.revision}
    options = {key: value for key, value in options.items() if value is not None}
    place = str(locate(settings.source))
    again = type(part).from_pretrained(
        place, subfolder=name, torch_dtype=dtype, local_files_only=settings.local_files_only, **options
    )
    return again.requires_grad_(False).eval().to(next(part.parameters()).device)
