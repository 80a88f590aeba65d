"""Sharing work over processes by locks that the system releases even where their holder is killed."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from piflow_cli.errors import StorageError

POLL_S = 0.2
"""How often shards that another process builds are looked at."""


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
