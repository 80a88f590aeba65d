"""What a case may do, watched while it runs: its time, memory, files elsewhere, processes, sockets, foreign code."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz import canary

SECONDS = 20
MEMORY = 2 * 2**30
"""Bytes of address space that a case may take beside what the process has when it begins."""
STARTS = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"})
REACHES = frozenset({"socket.connect", "socket.getaddrinfo"})
MAKES = {
    "os.mkdir": ((0, 2),), "os.rename": ((0, 2), (1, 3)), "os.remove": ((0, 1),), "os.rmdir": ((0, 1),),
    "os.link": ((1, 3),), "os.symlink": ((1, 2),), "os.truncate": ((0, None),), "os.chmod": ((0, 2),),
}  # fmt: skip
"""Events of Python that change files: which of their arguments are paths, and which the open folders of these."""
MEMORY_WORDS = ("unable to allocate", "can't allocate memory", "cannot allocate", "not enough memory", "memoryerror")


class Forbidden(BaseException):
    """A write outside the folders of a case, which is kept from happening."""


class Hang(BaseException):
    """A case that took longer than it may; nothing that a case runs catches it."""


@dataclass
class Watch:
    """What was seen of one case.

    Args:
        roots: folders in which it may write.
    """

    roots: tuple[str, ...]
    seen: list[str] = field(default_factory=list)

    def look(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit event."""
        if event in STARTS or event in REACHES:
            self.seen.append(f"{event} {str(args)[:200]}")
        elif event == "import" and str(args[0]).startswith(("canary", "outside")):
            self.seen.append(f"imports {args[0]}")
        elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._check(args[0], "writes")
        else:
            for place, folder in MAKES.get(event, ()):
                self._check(args[place], event, args[folder] if folder is not None else -1)

    def _check(self, path: Any, what: str, folder: int = -1) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.fsdecode(path)
        parent = os.path.dirname(os.path.join(os.getcwd() if folder < 0 else f"/proc/self/fd/{folder}", name))
        whole = os.path.join(os.path.realpath(parent), os.path.basename(name))
        if name != os.devnull and not any(whole == root or whole.startswith(root + os.sep) for root in self.roots):
            self.seen.append(f"{what} {name[:200]}")
            raise Forbidden(name)


_WATCH: list[Watch] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _WATCH:
        watch = _WATCH.pop()  # what looking itself does is not looked at
        try:
            watch.look(event, args)
        finally:
            _WATCH.append(watch)


def install() -> None:
    """Watch this process from now on, which cannot be undone."""
    sys.addaudithook(_hook)
    signal.signal(signal.SIGALRM, _ring)


def _ring(*_: object) -> None:
    raise Hang


def limit_memory() -> None:
    """Allow `MEMORY` beyond the address space that the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


@contextmanager
def watched(*roots: Path) -> Iterator[Watch]:
    """Watch the block; `roots` are where it may write."""
    watch = Watch(tuple(os.path.realpath(root) for root in roots))
    canary.SUNG.clear()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _WATCH.append(watch)
    try:
        yield watch
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _WATCH.clear()
        watch.seen += [f"code was run: {song}" for song in canary.SUNG]


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder."""
    found = {}
    for parent, folders, names in os.walk(root):
        for name in (*folders, *names):
            facts = os.lstat(os.path.join(parent, name))
            folder = os.path.isdir(os.path.join(parent, name))
            found[os.path.join(parent, name)] = (0, 0) if folder else (facts.st_size, facts.st_mtime_ns)
    return found


def fault_of(run: Callable[[], Any], known: tuple[type[BaseException], ...]) -> tuple[str | None, str, str, float]:
    """How a case ended: its fault, None where there is none; the error that it ended in, its words, and seconds."""
    begun = time.perf_counter()
    fault, said, words = None, "well", ""
    try:
        run()
    except Hang:
        fault = said = words = f"hang: more than {SECONDS} s"
    except Forbidden:
        said = "forbidden"
    except known as error:
        said, words = type(error).__name__, str(error)
        if any(word in words.lower() for word in MEMORY_WORDS):
            fault = f"memory: {words}"
    except BaseException as error:
        said, words = type(error).__name__, str(error)
        fault = f"{'memory' if isinstance(error, MemoryError) else 'unknown'}: {said}: {words[:300]} {_where(error)}"
    return fault, said, words, time.perf_counter() - begun


def _where(error: BaseException) -> str:
    """The innermost places of piflow's own code that an error came through."""
    trace, places = error.__traceback__, []
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "piflow_cli" in name:
            places.append(f"{name.split('piflow_cli/')[-1]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " < ".join(reversed(places[-4:]))
