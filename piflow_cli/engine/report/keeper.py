"""The page beside a run, written anew while the run goes on, at a bounded cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from piflow_cli.engine.report.run import RunReader
from piflow_cli.engine.report.runs import runs_page
from piflow_cli.formats.run import REPORT
from piflow_cli.io.files import write_atomic

SHARE = 0.03
"""Of a run's time that its page takes at most: where writing takes long, it is done less often."""


class ReportKeeper:
    """Writes the page of a run. What was read, and made smaller, for one page is not read again for the next.

    Args:
        folder: of the run.
        on_failure: is told, once, that the page cannot be written; a run goes on without it.
    """

    def __init__(self, folder: Path, *, on_failure: Callable[[str], None]) -> None:
        self.reader, self.out, self.on_failure = RunReader(folder), folder / REPORT, on_failure
        self.written, self.cost_s, self.failed = -float("inf"), 0.0, False

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last page for another one."""
        return time.perf_counter() - self.written >= self.cost_s / SHARE

    def write(self) -> None:
        """Write the page as the run is now."""
        begun = time.perf_counter()
        try:
            write_atomic(self.out, runs_page([self.reader.look()]))
        except Exception as error:  # whatever it is: a run is worth more than its page
            if not self.failed:
                self.on_failure(f"no {REPORT}, and training goes on: {error}")
            self.failed = True
        self.written = time.perf_counter()
        self.cost_s = self.written - begun
