"""A lock on a folder that says who holds it, and that a process which died does not keep."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from piflow_cli.errors import StorageError
from piflow_cli.io.bounds import MAX_TEXT_BYTES, bounded_json
from piflow_cli.io.files import PARTIAL, fsync_folder, write_atomic
from piflow_cli.io.regular import read_regular

LOCK = ".lock"
"""Name of the lock file in the folder it locks."""
ATTEMPTS = 20


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Args:
        host: name of its machine.
        pid: its number there.
        started: when that process started, in the machine's own words; tells it from a later one of the same number.
        since: local time at which it took the lock.
    """

    host: str
    pid: int
    started: str
    since: str

    @classmethod
    def of_this_process(cls) -> Owner:
        """This process, now."""
        started = process_started(os.getpid()) or ""
        return cls(socket.gethostname(), os.getpid(), started, time.strftime("%Y-%m-%d %H:%M:%S"))

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine, so that its life can be asked for."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs; asked of processes on this machine."""
        return process_started(self.pid) == self.started


def process_started(pid: int) -> str | None:
    """When a process of this machine started, None where there is none or it only waits to be collected."""
    try:
        if not Path("/proc/self/stat").exists():
            return _process_started_by_ps(pid)
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"


def _process_started_by_ps(pid: int) -> str | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    words = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return None if not words or words[0].startswith("Z") else " ".join(words[1:])


class FolderLock:
    """A folder used by one process at a time.

    Args:
        folder: exists and is writable.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.absolute() / LOCK
        self.text: str | None = None

    def acquire(self) -> None:
        """Take the lock, from a dead owner too.

        Raises:
            StorageError: another process holds it, or one on another machine that cannot be asked.
        """
        text = json.dumps(asdict(Owner.of_this_process())) + "\n"
        for _ in range(ATTEMPTS):
            taken = self._create(text)
            found = None if taken else _read(self.path)  # None too where it was released in the meantime
            if found is not None:
                self._refuse(_owner(found))
                taken = self._take_over(found, text)
            if taken:
                self.text = text
                return
        raise StorageError(f"cannot lock {self.path.parent}: other processes take and leave {self.path} all the time")

    def release(self) -> None:
        """Give the lock back where it is still this process's."""
        if self.is_held():
            with suppress(OSError):  # in a folder that is read-only by now it stays, and is a dead owner's
                self.path.unlink(missing_ok=True)
        self.text = None

    def is_held(self) -> bool:
        """Whether the lock is there and this process's."""
        return self.text is not None and _read(self.path) == self.text

    def _create(self, text: str) -> bool:
        """Write the lock file whole, unless there is one."""
        partial = self.path.with_name(f"{PARTIAL}{secrets.token_hex(8)}{LOCK}")
        try:
            partial.write_text(text, encoding="utf-8")
            try:
                os.link(partial, self.path)
            except FileExistsError:
                return False
            except OSError:  # a disk without hard links
                with self.path.open("x", encoding="utf-8") as file:
                    file.write(text)
            fsync_folder(self.path.parent)
        except FileExistsError:
            return False
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from None
        finally:
            partial.unlink(missing_ok=True)
        return True

    def _refuse(self, owner: Owner | None) -> None:
        """Raise unless the owner is known to be dead."""
        folder, remove = self.path.parent, f"remove {self.path} if nothing runs there any more"
        if owner is None:
            raise StorageError(f"{folder} is in use: {self.path} cannot be read as to by whom. Then {remove}.")
        who = f"process {owner.pid} on {owner.host}, since {owner.since}"
        if not owner.is_here:
            raise StorageError(
                f"{folder} is in use by another process: {who}. That machine cannot be asked from here: wait for the "
                f"process to end, choose another folder, or {remove}."
            )
        if owner.is_alive:
            raise StorageError(
                f"{folder} is in use by another process: {who}. Wait for it to end, stop it, or choose another folder."
            )

    def _take_over(self, dead: str, text: str) -> bool:
        """Put `text` in the place of a dead owner's lock, unless somebody else was quicker."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            _wait_for_turn(file)
            if _read(self.path) == dead and self.path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                write_atomic(self.path, text)
                return True
        return False


def in_use(folder: Path) -> bool:
    """Whether a process holds the lock of a folder, as far as it can be said from here."""
    text = _read(folder / LOCK) if (folder / LOCK).is_file() else None
    owner = _owner(text) if text is not None else None
    return text is not None and (owner is None or not owner.is_here or owner.is_alive)


def _wait_for_turn(file: BinaryIO) -> None:
    """Let one process at a time judge this very file, where the disk knows such turns; death ends a turn."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def _read(path: Path) -> str | None:
    try:
        return read_regular(path, max_bytes=MAX_TEXT_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from None


def _owner(text: str) -> Owner | None:
    """The owner that a lock file names, None where it is damaged."""
    try:
        value = bounded_json(text)
        return Owner(str(value["host"]), int(value["pid"]), str(value["started"]), str(value["since"]))
    except (ValueError, TypeError, KeyError):
        return None
