"""Converting students between formats, and proving that nothing changed on the way."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from piflow_cli import registry
from piflow_cli.engine.convert.check import check_fit
from piflow_cli.engine.convert.merge import base_is_here, merge
from piflow_cli.engine.convert.verify import Difference, check_same, difference_on_base
from piflow_cli.engine.students.device import DTYPES, resolve_device
from piflow_cli.engine.students.find import find_student
from piflow_cli.engine.students.load import on_base, read_student
from piflow_cli.engine.students.save import write_student
from piflow_cli.errors import ModelError, PiflowError, StorageError
from piflow_cli.formats.student import Format, Recipe, StoredStudent
from piflow_cli.io.files import atomic_file, atomic_folder, writable_folder
from piflow_cli.io.texts.names import user_path
from piflow_cli.preset import load_preset

Proof = Literal["tensors", "outputs"]


@dataclass(frozen=True)
class ConvertResult:
    """What was written.

    Args:
        path: the student's folder or file.
        format: its format.
        source_format: the format it came from.
        num_tensors: tensors written.
        proof: what was compared with the source: every tensor and the card, bitwise, or network outputs and samples
            besides; None where not verified.
        max_difference: largest absolute difference between the outputs of the two students, None where not compared.
        relative_difference: root mean square of that difference over that of the outputs.
        warnings: what a user should know, such as what other readers of the format get wrong.
    """

    path: Path
    format: str
    source_format: str
    num_tensors: int
    proof: Proof | None
    max_difference: float | None
    relative_difference: float | None
    warnings: tuple[str, ...]


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    to: str,
    verify: bool = False,
    preset: str | Path | None = None,
    base: str | Path | None = None,
    dtype: str | None = None,
    device: str = "cpu",
    force: bool = False,
) -> ConvertResult:
    """Write a student in another format; every tensor keeps its values and its dtype, unless LoRA is merged.

    Args:
        src: an embedded student's name, a student or run folder, a released weight file, or a hub id.
        dst: the folder or file to write; it must not exist.
        to: a registered format, such as native or lakonlab.
        verify: read the written student back and compare it with the source, see `ConvertResult.proof`.
        preset: what it was trained by, for sources that do not say it themselves.
        base: folder or hub id of the base that an adapter belongs to: to merge into it, to compare outputs on it, and
            for sources without a card as what the card names. Without it: the student's own, for comparing outputs
            only where that is a local folder.
        dtype: of merged weights; None keeps the base's.
        device: where outputs are compared.
        force: replace a student that is at `dst`; anything else there is refused all the same.

    Raises:
        ModelError: the source is missing, damaged, of no known format, of another base, or says too little; the base
            cannot be had; or the format has no place for such a student.
        PresetError: there is no such preset.
        StorageError: `dst` exists, has the wrong suffix, or cannot be written.
        DeviceError: no such device.
    """
    writer = _format(to)
    target = user_path(dst)
    _check_target(target, writer, force=force)
    if dtype is not None and dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not known; use {', '.join(DTYPES)}")
    where, base = resolve_device(device), _absolute(base)
    path = find_student(str(src))
    recipe = _recipe(path, preset=preset, base=base)
    stored, reader = read_student(path, recipe=recipe)
    card = stored.card
    merging = card.adapter is not None and not writer.holds_adapters
    writer.check(card.model_copy(update={"adapter": None}) if merging else card)
    warnings = list(stored.warnings)
    warnings += _unused(stored, recipe, src=src, preset=preset, base=base, used=merging or verify)
    if dtype is not None and not merging:
        warnings.append("dtype is that of merged weights; all others keep their own")
    vae = check_fit(stored, name=str(src))
    written = stored
    if merging:
        written = merge(stored, name=str(src), base=base, dtype=DTYPES[dtype] if dtype is not None else None)
        if written.card.dtype != "float32":
            warnings.append(f"merging rounded base and LoRA to {written.card.dtype}; --verify says how much it matters")
    warnings += writer.caveats(written)
    writable_folder(target.parent, needed_bytes=sum(tensor.nbytes for tensor in written.weights.values()))
    proof, difference = None, None
    with atomic_file(target) if writer.suffix else atomic_folder(target) as place:
        write_student(written, place, writer, vae=vae)
        if verify:
            back = writer.read(place)
            check_same(written, back, place=target)
            proof, difference = _prove(stored, back, name=str(src), base=base, device=where)
    return ConvertResult(
        path=target,
        format=writer.name,
        source_format=reader.name,
        num_tensors=len(written.weights),
        proof=proof,
        max_difference=difference.largest if difference is not None else None,
        relative_difference=difference.relative if difference is not None else None,
        warnings=tuple(warnings),
    )


def _prove(
    stored: StoredStudent, back: StoredStudent, *, name: str, base: str | None, device: torch.device
) -> tuple[Proof, Difference | None]:
    """What can be compared beyond the tensors, which were: outputs, where no base is needed or one is at hand."""
    if not stored.card.needs_base:
        base = None
    elif base is None and not base_is_here(stored.card.teacher):
        return "tensors", None
    return "outputs", difference_on_base(stored, back, name=name, base=base, device=device)


def _recipe(path: Path, *, preset: str | Path | None, base: str | None) -> Recipe | None:
    """The recipe of a source that may not say how it was made, on the base that was given."""
    if preset is not None:
        name = preset
    elif base is not None:
        readers = (_format(name) for name in registry.names("format"))
        name = next((reader.usual_preset(path) for reader in readers if reader.matches(path)), None)
    else:
        name = None
    if name is None:
        return None
    recipe = load_preset(name)
    if recipe.adapter is None:
        return recipe
    return recipe.model_copy(update={"teacher": on_base(recipe.teacher, base)})


def _unused(
    stored: StoredStudent,
    recipe: Recipe | None,
    *,
    src: str | Path,
    preset: str | Path | None,
    base: str | None,
    used: bool,
) -> list[str]:
    """Warnings about what was given and not needed; `used` says whether the base is needed for more than the card."""
    warnings, card = [], stored.card
    if preset is not None and recipe is not None and card.preset != recipe.name:
        warnings.append(
            f"preset {recipe.name} was not needed and not used: {src} says itself how it was made"
            + (f" ({card.preset})" if card.preset else "")
        )
    if base is not None and not (card.needs_base and (used or card.teacher.source == base)):
        warnings.append(f"base {base} was not needed and not used")
    return warnings


def _absolute(base: str | Path | None) -> str | None:
    """A base as given, a local folder by its absolute path: a card may come to name it."""
    if base is None:
        return None
    path = user_path(base)
    return str(path.resolve()) if path.exists() else str(base)


def _format(name: str) -> Format:
    return registry.resolve("format", name)()


def _check_target(target: Path, writer: Format, *, force: bool) -> None:
    """Refuse a name of the wrong kind, and to write over anything but, where forced, a student."""
    if writer.suffix and target.suffix != writer.suffix:
        raise StorageError(f"{writer.name} is one file; let DST end in {writer.suffix} (got {target})")
    if not writer.suffix and target.suffix == ".safetensors":
        raise StorageError(f"{writer.name} is a folder, but {target} is named like a weight file; choose another DST")
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise StorageError(f"{target} exists and is never written over; choose another DST, or --force to replace it")
    if target.is_dir() and not writer.suffix and (not any(target.iterdir()) or _is_student(target)):
        return
    if target.is_file() and writer.suffix and _is_student(target):
        return
    raise StorageError(
        f"{target} is no student {'file' if writer.suffix else 'folder'}, so --force does not replace it; "
        "choose another DST"
    )


def _is_student(path: Path) -> bool:
    try:
        return any(_format(name).matches(path) for name in registry.names("format"))
    except PiflowError:
        return False  # damaged: nobody can say that it is one
