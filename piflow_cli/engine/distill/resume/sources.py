"""Digests of the files that a run is trained on and by: cheap, and others for other content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from piflow_cli.core.interfaces import TeacherFamily
from piflow_cli.engine.plan.checks import validated_prompts
from piflow_cli.io.folders import list_files
from piflow_cli.io.tensors.digests import WHOLE_BYTES, digest_content
from piflow_cli.preset import Preset

MAX_FILES_READ, MAX_FILES_SIZED = 1000, 100_000
"""In folders of more files, or of more than a few hundred MB, names and sizes must do; in still larger ones names."""
VALIDATED = "validation.prompts"
"""The key of a preset whose pictures may change."""
MODEL_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pth", ".pt", ".json", ".txt", ".model")


def digests_of_sources(preset: Preset) -> dict[str, str]:
    """A digest of the data under `data`, and of each of the teacher's files under `teacher/NAME`.

    Where the prompts of the validation are about pictures, theirs is under the key of these prompts. What is on the hub
    and not on this machine yet has none.
    """
    found = {}
    for key, path in preset.data.source_paths().items():
        if path.exists():
            found[f"data.{key}"] = _digest_all(path, _files_below(path))
    if (about := validated_prompts(preset).about) is not None:
        found[VALIDATED] = f"pictures {about.digest()[:16]}"
    return found | digests_of_teacher(preset.teacher)


def digests_of_teacher(family: TeacherFamily) -> dict[str, str]:
    """A digest of each of a teacher's files on this machine."""
    found = {}
    for key, path in family.source_paths().items():
        for file in _files_below(path, MODEL_SUFFIXES):
            name = file.relative_to(path).as_posix() if path.is_dir() else ""
            found[f"teacher.{key}" + (f" ({name})" if name else "")] = digest_content(file)
    return found


def _files_below(path: Path, suffixes: Sequence[str] = ("",)) -> list[Path]:
    """A file itself, or the regular files below a folder in sorted order, hidden ones left out."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    return [file for file in list_files(path).files if file.name.endswith(tuple(suffixes))]


def _digest_all(path: Path, files: Sequence[Path]) -> str:
    """How many files, and one digest of their names and, where they are few enough, of what is in them."""
    digest, read = hashlib.sha256(), 0
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()}\n".encode())
        if len(files) <= MAX_FILES_SIZED:
            size = file.stat().st_size
            whole = len(files) <= MAX_FILES_READ and read + min(size, WHOLE_BYTES) <= 4 * WHOLE_BYTES
            read += min(size, WHOLE_BYTES) if whole else 0
            digest.update((digest_content(file) if whole else f"{size} bytes").encode())
    return f"{len(files)} file{'s' * (len(files) != 1)}, {digest.hexdigest()[:16]}"
