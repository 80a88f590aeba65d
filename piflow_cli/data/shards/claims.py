"""Shards that processes build together, by locks that the system releases even where their holder is killed."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from piflow_cli.errors import StorageError
from piflow_cli.io.checksums import file_sha256
from piflow_cli.io.files import atomic_file, remove_partials_of
from piflow_cli.io.tensors.files import write_tensors

POLL_S = 0.2
"""How often shards that another process builds are looked at."""


def build_together(
    folder: Path,
    pending: Sequence[int],
    *,
    path_of: Callable[[int], Path],
    is_whole: Callable[[int], bool],
    build: Callable[[int], None],
    on_round: Callable[[Sequence[int]], None],
    what: str,
    key: str,
) -> int:
    """Build every pending shard that nobody else builds, and wait for the others; returns how many were built here.

    Args:
        folder: of the shards.
        pending: numbers of those that were not whole.
        path_of: the file of a shard, whose name its lock has.
        is_whole: whether another process has built it meanwhile.
        build: reads, encodes and writes one.
        on_round: called with those still pending, before each look at all of them.
        what, key: as `writing`.

    Raises: as `writing` and `build`.
    """
    built = 0
    while pending:
        on_round(pending)
        left = []
        for shard in pending:
            with claim(folder, path_of(shard).stem, what=what, key=key) as claimed:
                if not claimed:
                    left.append(shard)
                elif not is_whole(shard):
                    build(shard)
                    built += 1
        if left == pending:
            time.sleep(POLL_S)
        pending = left
    return built


def write_shard(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Write a shard whole or not at all, for who holds its lock; its size in bytes and its SHA-256.

    Args:
        path: of the file.
        tensors, metadata: as `write_tensors`.

    Raises:
        OSError, StorageError: the folder cannot be written, or its disk is full.
    """
    remove_partials_of(path)
    with atomic_file(path) as partial:
        write_tensors(partial, tensors, metadata=metadata)
        return os.stat(partial).st_size, file_sha256(partial)


@contextmanager
def claim(folder: Path, name: str, *, what: str, key: str, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a part of a folder; yields False, without it, where another process has it and not `wait`.

    Args:
        folder: made if need be.
        name: of the part.
        what, key: as `writing`.
    """
    with writing(folder, what=what, key=key):
        locks = folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{name}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=-1 if wait else 0)
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextmanager
def writing(folder: Path, *, what: str, key: str) -> Iterator[None]:
    """Turn what goes wrong on the disk into StorageError.

    Args:
        what: is written, for messages.
        key: of the preset that names the folder.
    """
    try:
        yield
    except (OSError, SafetensorError, StorageError) as error:  # the second is safetensors' word for a full disk
        raise StorageError(
            f"cannot write {what} to {folder}: {error}. Free some space or name another folder in {key}, and run the "
            "caching step again: what is whole stays."
        ) from None
