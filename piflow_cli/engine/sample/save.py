"""Pictures on disk: a file each or one labelled sheet, with what they are of inside."""

from __future__ import annotations

import json
import re
from pathlib import Path

from piflow_cli import __version__
from piflow_cli.engine.sample.sample import SampleResult
from piflow_cli.errors import DataError
from piflow_cli.io.files import writable_folder, write_atomic
from piflow_cli.io.pictures import grid_picture, png_bytes

PICTURE_SUFFIXES = {".png"}
GRID_COLUMNS = 8


def save_samples(result: SampleResult, out: Path, *, grid: bool | None = None) -> list[Path]:
    """Write the pictures and return their paths.

    Args:
        result: what `sample` returned.
        out: a .png file, for one picture or a grid; else a folder, into which files are added without writing over any.
        grid: True writes one labelled picture of all in place of a file each, False only the files, None both where
            there are several prompts.

    Raises:
        StorageError: `out` cannot be written.
        DataError: several pictures for one file name.
    """
    one_file = out.suffix.lower() in PICTURE_SUFFIXES
    if out.suffix and not one_file and not out.is_dir():
        raise DataError(f"pictures are written as .png; {out.name} has the suffix {out.suffix}")
    folder = writable_folder(out.parent if one_file else out)
    if grid or (one_file and len(result.images) > 1):
        return [_save_grid(result, out if one_file else _free_path(folder, "grid"))]
    paths = []
    for image, prompt, seed in zip(result.images, result.prompts, result.seeds, strict=True):
        stem = re.sub(r"[^\w-]+", "-", prompt).strip("-")[:60] or "picture"
        path = out if one_file else _free_path(folder, f"{stem}-seed{seed}")
        write_atomic(path, png_bytes(image, _facts(result, prompt, seed)))
        paths.append(path)
    if grid is None and len(dict.fromkeys(result.prompts)) > 1:
        paths.append(_save_grid(result, _free_path(folder, "grid")))
    return paths


def _save_grid(result: SampleResult, path: Path) -> Path:
    """Write one picture of all: a row a prompt where each has several, else side by side, every one with its prompt."""
    prompts = dict.fromkeys(result.prompts)
    columns = len(result.images) // len(prompts)
    if columns > 1:
        picture = grid_picture(result.images, columns=columns, row_labels=list(prompts))
    else:
        columns = min(len(result.images), GRID_COLUMNS)
        picture = grid_picture(result.images, columns=columns, labels=result.prompts)
    write_atomic(path, png_bytes(picture, _facts(result, ", ".join(prompts), result.seeds[0])))
    return path


def _facts(result: SampleResult, prompt: str, seed: int) -> dict[str, str]:
    """What a PNG says of itself."""
    return {
        "prompt": prompt,
        "seed": str(seed),
        "nfe": str(result.settings.nfe),
        "model": result.model,
        "sampling": json.dumps(result.settings.model_dump()),
        **{key: str(value) for key, value in result.conditions.items()},
        "software": f"piflow {__version__}",
    }


def _free_path(folder: Path, stem: str) -> Path:
    path, number = folder / f"{stem}.png", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.png"
    return path
