"""Stopping a run politely: the first Ctrl-C, SIGTERM or SIGUSR1 asks, a second Ctrl-C insists."""

import signal
import threading
from types import FrameType
from typing import Self

WARNING = "SIGUSR1"
"""What Slurm sends before an allocation ends (`--signal=USR1@120`); not every system has it."""


class StopRequest:
    """A context in which SIGINT, SIGTERM and SIGUSR1 set `requested` instead of ending the process."""

    def __init__(self) -> None:
        self.requested = False
        self.warned = False  # by SIGUSR1
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # signals reach no other thread
            for name in ("SIGINT", "SIGTERM", WARNING):
                if name in signal.Signals.__members__:
                    number = signal.Signals[name]
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        self.warned = self.warned or signal.Signals(number).name == WARNING
