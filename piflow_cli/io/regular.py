"""Reading what others made: regular files only, and none larger than its kind may be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from piflow_cli.errors import DataError
from piflow_cli.io.bounds import MAX_TEXT_BYTES


class IrregularError(DataError, OSError):
    """What is there is no regular file, or too large; the message names it. Whoever reads files expects an OSError."""


def read_text(path: Path, *, encoding: str = "utf-8", max_bytes: int = MAX_TEXT_BYTES) -> str:
    """A text file, as large as a document may be.

    Raises:
        OSError: no regular file, too large, not there, or not to be read.
        UnicodeDecodeError: another encoding.
    """
    return read_regular(path, max_bytes=max_bytes).decode(encoding)


def require_regular(path: Path, *, max_bytes: int | None = None) -> None:
    """Raise OSError unless a path is that of a regular file, of at most `max_bytes`, for a library to open it."""
    check_regular(path, os.stat(path), max_bytes=max_bytes)


def read_regular(path: Path, *, max_bytes: int) -> bytes:
    """A file's content.

    Nothing else is opened: a device may never end, and a pipe may never begin.

    Raises:
        IrregularError: no regular file, or larger than `max_bytes`; it is a DataError and an OSError.
        OSError: it is not there, or may not be read.
    """
    check_regular(path, os.stat(path), max_bytes=max_bytes)
    with open(path, "rb", opener=_without_waiting) as file:
        check_regular(path, os.fstat(file.fileno()), max_bytes=max_bytes)  # another one may have taken its place
        return file.read(min(max_bytes, os.fstat(file.fileno()).st_size + 1))  # Python makes room for what it is told


def read_part(path: Path, *, start: int, max_bytes: int) -> bytes:
    """At most `max_bytes` of a file's content from a byte on; nothing where it ends before.

    Raises:
        IrregularError, OSError: as `read_regular`, whatever the size.
    """
    check_regular(path, os.stat(path), max_bytes=None)
    with open(path, "rb", opener=_without_waiting) as file:
        check_regular(path, os.fstat(file.fileno()), max_bytes=None)
        file.seek(start)
        return file.read(max_bytes)


def check_regular(path: Path, facts: os.stat_result, *, max_bytes: int | None) -> None:
    """Raise IrregularError unless these are the facts of a regular file of at most `max_bytes`."""
    if not stat.S_ISREG(facts.st_mode):
        raise IrregularError(f"{path} is no regular file but {_kind(facts.st_mode)}; only regular files are read")
    if max_bytes is not None and facts.st_size > max_bytes:
        raise IrregularError(f"{path} has {facts.st_size / 2**20:.0f} MB; up to {max_bytes / 2**20:.0f} MB are read")


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
