"""Checking a stored student as it is: its files against their checksums, its weights against its card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from piflow_cli.engine.students.find import find_student
from piflow_cli.engine.students.load import assemble, read_student
from piflow_cli.formats.released.files import check_fits
from piflow_cli.formats.student import StoredStudent
from piflow_cli.io.checksums import TENSORS_KEY, has_manifest
from piflow_cli.io.weights import read_header
from piflow_cli.preset import load_preset


@dataclass(frozen=True)
class CheckResult:
    """What was found whole.

    Args:
        path: the student's folder or file.
        format: its format.
        num_tensors: weights, all of them finite floating-point numbers of the names and shapes that the card asks for.
        checksums: what else was compared: every file with the folder's manifest, or the tensors with the digest in
            their file; None where the student carries neither.
        warnings: what a user should know.
    """

    path: Path
    format: str
    num_tensors: int
    checksums: Literal["files", "tensors"] | None
    warnings: tuple[str, ...]


def check(src: str | Path, *, preset: str | Path | None = None, base: str | Path | None = None) -> CheckResult:
    """Check a student where it lies; its base is not needed.

    Args:
        src: an embedded student's name, a student or run folder, a released weight file, or a hub id.
        preset: what it was trained by, where its files do not say it.
        base: folder or hub id of the base of a released adapter that says nothing of it.

    Raises:
        ModelError: missing, damaged, or of weights that do not fit its card; the first damaged things are named.
        PresetError: there is no such preset.
    """
    path = find_student(str(src))
    recipe = load_preset(preset) if preset is not None else None
    stored, reader = read_student(path, recipe=recipe, base=str(base) if base is not None else None)
    check_fit(stored, name=str(src))
    if path.is_dir():
        checksums = "files" if has_manifest(path) else None
    else:
        said = path.suffix == ".safetensors" and TENSORS_KEY in read_header(path)[1]
        checksums = "tensors" if said else None
    return CheckResult(
        path=path,
        format=reader.name,
        num_tensors=len(stored.weights),
        checksums=checksums,
        warnings=stored.warnings,
    )


def check_fit(stored: StoredStudent, *, name: str) -> object | None:
    """Raise ModelError for weights that do not fit their card; return the autoencoder that is to travel along."""
    if not stored.card.needs_base:
        return assemble(stored, name=name).space.own_vae
    check_fits(stored.card, stored.weights, source=name)
    return None
