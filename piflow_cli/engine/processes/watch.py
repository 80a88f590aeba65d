"""A watch over the processes of a run: one that hangs is named, and all of them end.

Every process has a thread that says in the launcher's store (torch's TCPStore) that it lives and what it is doing. One
whose main thread is stuck is ended by its thread; one that gives no sign at all, being frozen, is named by another, and
killed where it is on the same machine: it would hear no other signal.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NoReturn, Self

import torch.distributed as dist

from piflow_cli.engine.processes.world import ORPHAN_GRACE_S, World
from piflow_cli.errors import PARTNER_ENDED

INTERVAL_S = 1.0
PARTNER_GRACE_S = 3.0
"""Seconds that a process takes to end by itself after another one has failed."""
FAILED, GONE = "failed", "gone"
"""The key of who hangs, and what a process says last."""
LOST = (RuntimeError, dist.DistError)
"""What the store raises where the process that keeps it is gone."""


class Watch:
    """A context within which the processes of a run watch one another; one process alone is not watched.

    Time is counted in the turns of the watching thread, not by a clock: processes that were all stopped for a while
    (Ctrl-Z) go on.

    Args:
        world: this process among all.
        limit_s: seconds that a process may be at something that waits for no other one, or give no sign of life.
    """

    def __init__(self, world: World, *, limit_s: float) -> None:
        self.world, self.limit_s, self.interval_s = world, limit_s, min(INTERVAL_S, limit_s / 4)
        self.step = 0
        self._what, self._turns, self._beat = "", 0, 0
        self._seen: dict[int, tuple[str, int]] = {}
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self.world.size > 1:
            self._store = _own_store()
            self._store.set(_place(self.world.rank), json.dumps([socket.gethostname(), os.getpid()]))
            self._tell()  # now: one that is frozen before its thread's first turn is watched too
            self._thread = threading.Thread(target=self._run, daemon=True, name="watch")
            self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._left.set()
        if self._thread is not None:
            self._thread.join()
            with suppress(*LOST):
                self._store.set(_key(self.world.rank), GONE)

    @contextmanager
    def busy(self, what: str, step: int) -> Iterator[None]:
        """Within the context this process does something that waits for no other one.

        Args:
            what: in words, such as "reading the data".
            step: of the run.
        """
        self.step, self._turns, self._what = step, 0, what
        try:
            yield
        finally:
            self._what = ""

    def touch(self) -> None:
        """Say that what this process does gets on."""
        self._turns = 0

    def _run(self) -> None:
        try:
            while not self._left.wait(self.interval_s):
                self._turn()
        except LOST:  # the store is gone, and with it the launcher or the main process
            self._leave_within(ORPHAN_GRACE_S)

    def _tell(self) -> None:
        self._beat += 1
        self._store.set(_key(self.world.rank), json.dumps([self._beat, self._what, self.step]))

    def _turn(self) -> None:
        """Tell, look at the others, and end this process where one hangs."""
        self._turns += 1
        self._tell()
        if self._store.check([FAILED]):
            self._leave_within(PARTNER_GRACE_S)
            return
        if self._what and self._turns * self.interval_s > self.limit_s:
            self._fail(self.world.rank, f"has been {self._what} of step {self.step} for {self.limit_s:g} s and hangs")
        for rank in range(1, self.world.size) if self.world.rank == 0 else (0,):
            told = self._store.get(_key(rank)).decode() if self._store.check([_key(rank)]) else ""
            if told == GONE:
                continue
            before, turns = self._seen.get(rank, ("", 0))
            self._seen[rank] = (told, turns + 1 if told == before else 0)
            if told and self._seen[rank][1] * self.interval_s > self.limit_s:
                _, what, step = json.loads(told)
                doing = f"{what} of step {step}" if what else f"in step {step}"
                self._fail(rank, f"has given no sign of life for {self.limit_s:g} s; it was {doing}")

    def _fail(self, rank: int, what: str) -> None:
        """End this process because `rank` hangs; the first to see it says so."""
        own = f"rank {rank} of {self.world.size} {what}"
        if self._store.compare_set(FAILED, "", own).decode() != own or self._left.is_set():
            self._leave_within(PARTNER_GRACE_S)
            return
        sys.stderr.write(
            f"error: {own}. All processes end; the same command goes on from the newest checkpoint. Where that may "
            "take longer, raise training.hang_timeout_s.\n"
        )
        if rank != self.world.rank:
            self._kill(rank)
        _end(1)

    def _kill(self, rank: int) -> None:
        host, process = json.loads(self._store.get(_place(rank)))
        if host == socket.gethostname():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)

    def _leave_within(self, seconds: float) -> None:
        """End this process unless its main thread leaves the watch by itself."""
        if not self._left.wait(seconds):
            _end(PARTNER_ENDED)


def _key(rank: int) -> str:
    return f"beat/{rank}"


def _place(rank: int) -> str:
    return f"place/{rank}"


def _own_store() -> dist.Store:
    """The launcher's store, by a connection of its own: the one that torch.distributed uses may be waiting."""
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    store = dist.TCPStore(*address, is_master=False, timeout=timedelta(seconds=30), wait_for_workers=False)
    return dist.PrefixStore("piflow/watch", store)


def _end(code: int) -> NoReturn:
    """End the process at once: its main thread is stuck and would not."""
    sys.stderr.flush()
    os._exit(code)
