"""SHA-256 of what is worth keeping: a manifest beside the files of a folder, or one digest of a file's tensors."""

import hashlib
import json
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from piflow_cli.errors import PiflowError
from piflow_cli.io.bounds import bounded_json
from piflow_cli.io.files import write_atomic
from piflow_cli.io.regular import read_regular, require_regular
from piflow_cli.io.texts.names import check_path

MANIFEST = "checksums.json"
"""Name of a folder's manifest: the SHA-256 of each file below it, by the file's name relative to it."""
TENSORS_KEY = "piflow_sha256"
"""Key in a weight file's metadata: `tensors_sha256` of what the file holds."""
MAX_MANIFEST_BYTES = 16_000_000
_THREADS = 4


def write_manifest(folder: Path) -> None:
    """Write the manifest of all files below a folder, as they are now.

    Raises:
        StorageError: it cannot be written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if name != MANIFEST]
    digests = dict(zip(names, _digests(folder, names), strict=True))
    write_atomic(folder / MANIFEST, json.dumps({"sha256": digests}, indent=2) + "\n")


def has_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest at all; those of other makers have none."""
    return (folder / MANIFEST).is_file()


def check_manifest(folder: Path, *, names: Collection[str] | None = None) -> list[str]:
    """The names of the files that are missing or are not what the manifest says, in its order.

    Files that the manifest does not name are not looked at. Without a manifest nothing can be said: the list is empty.
    One that cannot be read is itself what is damaged.

    Args:
        folder: where the manifest is.
        names: check these alone, as relative names with slashes; None is all.
    """
    if not has_manifest(folder):
        return []
    digests = _read_manifest(folder / MANIFEST)
    if digests is None:
        return [MANIFEST]
    checked = [name for name in digests if names is None or name in names]
    found = _digests(folder, checked)
    return [name for name, digest in zip(checked, found, strict=True) if digest != digests[name]]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        OSError, ValueError: it cannot be read, or is none.
    """
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """One digest of tensors: of their names in order, dtypes, shapes and bytes.

    Args:
        tensors: on any device.
    """
    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def _read_manifest(path: Path) -> dict[str, str] | None:
    """What a manifest says, None where it is damaged or names files elsewhere."""
    try:
        value = bounded_json(read_regular(path, max_bytes=MAX_MANIFEST_BYTES))
    except (OSError, ValueError):
        return None
    digests = value.get("sha256") if isinstance(value, dict) else None
    if not isinstance(digests, dict):
        return None
    return digests if all(isinstance(digest, str) and _is_inside(name) for name, digest in digests.items()) else None


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    try:
        check_path(Path(name))
    except PiflowError:
        return False
    return not path.is_absolute() and ".." not in path.parts


def _digests(folder: Path, names: Collection[str]) -> list[str | None]:
    """The SHA-256 of each file, None for one that cannot be read; hashing is done on several threads."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda name: _digest(folder / name), names))


def _digest(path: Path) -> str | None:
    try:
        return file_sha256(path)
    except (OSError, ValueError):  # a name that no file can have
        return None
