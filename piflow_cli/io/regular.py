"""Reading what others made: regular files only, and none larger than its kind may be."""

import os
import stat
from pathlib import Path

from piflow_cli.errors import DataError


def read_regular(path: Path, *, max_bytes: int) -> bytes:
    """A file's content.

    Nothing else is opened: a device may never end, and a pipe may never begin.

    Raises:
        DataError: no regular file, or larger than `max_bytes`.
        OSError: it is not there, or may not be read.
    """
    check_regular(path, os.stat(path), max_bytes=max_bytes)
    with open(path, "rb", opener=_without_waiting) as file:
        check_regular(path, os.fstat(file.fileno()), max_bytes=max_bytes)  # another one may have taken its place
        return file.read(max_bytes)


def check_regular(path: Path, facts: os.stat_result, *, max_bytes: int) -> None:
    """Raise DataError unless these are the facts of a regular file of at most `max_bytes`."""
    if not stat.S_ISREG(facts.st_mode):
        raise DataError(f"{path} is no regular file but {_kind(facts.st_mode)}; only regular files are read")
    if facts.st_size > max_bytes:
        raise DataError(f"{path} has {facts.st_size / 2**20:.0f} MB; up to {max_bytes / 2**20:.0f} MB are read")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | (os.O_NONBLOCK if os.name == "posix" else 0))


def _kind(mode: int) -> str:
    kinds = {
        "a folder": stat.S_ISDIR,
        "a device": lambda m: stat.S_ISCHR(m) or stat.S_ISBLK(m),
        "a pipe": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
    }
    return next((name for name, test in kinds.items() if test(mode)), "something else")
