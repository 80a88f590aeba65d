# What the training scripts of the embedded networks share: a line of progress and a folder that appears whole.

import sys
import time
from collections.abc import Callable
from pathlib import Path

from piflow_cli.errors import StorageError
from piflow_cli.io.files import atomic_folder


def replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a temporary folder beside `target`, then rename it into place; an older `target` is replaced.

    Args:
        target: the folder to appear; its parent is made if missing.
        write: fills the (existing, empty) folder it is given.

    Raises:
        StorageError: the parent cannot be written.
    """
    try:
        with atomic_folder(target) as fresh:
            write(fresh)
    except StorageError as error:
        raise StorageError(f"{error}. Pass another folder with --out.") from error


class ProgressLine:
    """One line on stderr every `every_s` seconds: step, mean loss since the last line, steps/s, time left."""

    def __init__(self, num_steps: int, *, every_s: float = 10.0) -> None:
        self.num_steps = num_steps
        self.every_s = every_s
        self.started = self.last_line = time.monotonic()
        self.losses: list[float] = []

    def update(self, step: int, loss: float) -> None:
        """Count a finished step (1-based)."""
        self.losses.append(loss)
        now = time.monotonic()
        if step < self.num_steps and now - self.last_line < self.every_s:
            return
        rate = step / max(now - self.started, 1e-9)
        left_s = round((self.num_steps - step) / rate)
        print(
            f"step {step}/{self.num_steps}  loss {sum(self.losses) / len(self.losses):.4f}  {rate:.1f} steps/s  "
            f"{left_s // 60}:{left_s % 60:02d} left",
            file=sys.stderr,
            flush=True,
        )
        self.last_line, self.losses = now, []


def exit_interrupted(what: str) -> int:
    """Say that nothing was written, and give the exit status of a program stopped by Ctrl-C."""
    print(f"Interrupted: {what} was not written; what was there before is untouched.", file=sys.stderr)
    return 130
