"""What a training run leaves on disk: the resolved preset, metrics, previews, checkpoints and the student."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piflow_cli import __version__
from piflow_cli.engine.distill.resume.changes import check_changes
from piflow_cli.engine.distill.resume.checkpoints import CheckpointCard, Checkpoints
from piflow_cli.errors import ModelError, StorageError
from piflow_cli.formats.native import read_card
from piflow_cli.formats.run import HISTORY, METRICS, PRESET, PREVIEWS, SOURCES, STARTS
from piflow_cli.io.bounds import MAX_METRICS_BYTES, bounded_json
from piflow_cli.io.files import (
    PARTIAL,
    REPLACED,
    folder_bytes,
    remove_partials,
    restore_replaced,
    writable_folder,
    write_atomic,
)
from piflow_cli.io.locks import LOCK, FolderLock
from piflow_cli.io.regular import read_regular, read_text
from piflow_cli.preset import Preset


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Args:
        card: of the checkpoint that it goes on from, None for a new run.
        notes: what its user should know, such as damage that was found.
    """

    card: CheckpointCard | None = None
    notes: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """Steps taken before."""
        return 0 if self.card is None else self.card.step


class RunFolder:
    """The folder of one run.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.lock: FolderLock | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def open(self, preset: Preset, *, sources: Mapping[str, str], resume: bool, needed_bytes: int) -> Start:
        """Claim the folder for a preset, for as long as this process lives, and find where to begin.

        Args:
            preset: the recipe.
            sources: digests of what it trains on and by.
            resume: False refuses a folder that holds a run.
            needed_bytes: what the run takes at its fullest, with what is there.

        Raises:
            StorageError: it cannot be written, is too small, is in use, holds another preset's run or one without a
                whole checkpoint, or must not be resumed. A run that never came to a checkpoint is nothing to lose:
                another preset takes its place.
        """
        self._check_not_foreign()
        writable_folder(self.path)
        self.lock = FolderLock(self.path)
        self.lock.acquire()
        try:
            return self._claim(preset, sources, resume=resume, needed_bytes=needed_bytes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder back."""
        if self.lock is not None:
            self.lock.release()

    def check_there(self) -> None:
        """Raise StorageError where the folder was removed or taken since it was opened: nothing is written then."""
        if self.lock is not None and not ((self / PRESET).is_file() and self.lock.is_held()):
            raise StorageError(
                f"the run folder {self.path} is gone: it was removed, renamed or taken over during the run, "
                "and nothing more is written there. Put it back to resume, or run the same command to start anew."
            )

    def remove_if_empty(self) -> None:
        """Remove the folders that a write into a removed run made anew."""
        for folder in (self.checkpoints.folder, self.path):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def student_step(self) -> int | None:
        """Steps of the student that is there, None where there is none that can be read."""
        try:
            return read_card(self / "student").steps
        except ModelError:
            return None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that can be read."""
        path = self / METRICS
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if _step_of(line) is not None]

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        self._append(METRICS, row)

    def note_start(self, facts: Mapping[str, object], *, step: int) -> None:
        """Add a line to starts.jsonl: by what, and on what, the run is started at a step."""
        self._append(STARTS, {"time": _now(), "step": step, **facts})

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        try:
            with (self / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            self.check_there()
            raise StorageError(f"cannot write {self / name}: {error.strerror or error}") from None

    def _check_not_foreign(self) -> None:
        """Refuse a folder that holds something and no run; what killed writes leave is nothing."""
        try:
            names = os.listdir(self.path) if self.path.is_dir() else []
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror or error}") from None
        kept = [name for name in names if not name.startswith((PARTIAL, REPLACED)) and name != LOCK]
        if kept and PRESET not in kept:
            raise StorageError(f"{self.path} is not empty and holds no run; choose another --out")

    def _claim(self, preset: Preset, sources: Mapping[str, str], *, resume: bool, needed_bytes: int) -> Start:
        for folder in (self.path, self.checkpoints.folder, self / PREVIEWS):
            remove_partials(folder)
        restore_replaced(self / "student")
        stored, changes, card, notes = self._stored(PRESET), [], None, []
        if stored is not None and self.checkpoints.newest_step():
            changes = check_changes(self.path, stored, preset, self._stored(SOURCES) or {}, sources)
            self._check_resume(preset, resume=resume)
            card, notes = self.checkpoints.newest_whole()
        elif stored is not None and (self / "student").exists():
            raise StorageError(
                f"{self.path} holds a student and no checkpoint to go on from; it would be lost. Choose another --out, "
                "or delete the folder."
            )
        there = folder_bytes(self.checkpoints.folder) + folder_bytes(self / "student")
        writable_folder(self.path, needed_bytes=max(0, needed_bytes - there))
        write_atomic(self / PRESET, preset.model_dump_json(indent=2) + "\n")
        write_atomic(self / SOURCES, json.dumps(dict(sources), indent=2) + "\n")
        write_atomic(self / "piflow.json", json.dumps({"piflow_version": __version__}) + "\n")
        step = 0 if card is None else card.step
        if changes:
            self._append(HISTORY, {"time": _now(), "step": step, "changes": changes})
        notes += [f"changed since: {change}" for change in changes]
        return Start(card, (*notes, *self._trim_metrics(step)))

    def _check_resume(self, preset: Preset, *, resume: bool) -> None:
        step = self.checkpoints.newest_step()
        if not resume:
            raise StorageError(
                f"{self.path} holds a run at step {step} that would be lost. Leave out --no-resume to go on, "
                "choose another --out, or delete the folder."
            )
        if step > preset.training.steps:
            raise StorageError(
                f"{self.path} holds a run at step {step}, beyond training.steps {preset.training.steps}. Set "
                f"training.steps to {step} or more to go on, or choose another --out."
            )

    def _stored(self, name: str) -> dict[str, Any] | None:
        """A JSON object of the run, None where there is none."""
        path = self / name
        if not path.exists():
            return None
        try:
            value = bounded_json(read_text(path))
        except (ValueError, OSError) as error:
            raise StorageError(f"{path} cannot be read ({error}); choose another --out") from None
        if not isinstance(value, dict):
            raise StorageError(f"{path} is damaged: it holds no table; choose another --out")
        return value

    def _trim_metrics(self, step: int) -> list[str]:
        """Drop what was logged after the checkpoint that training goes on from; a file that is none is set aside."""
        path, aside = self / METRICS, self / f"unreadable-{METRICS}"
        if not path.exists():
            return []
        try:
            lines = read_regular(path, max_bytes=MAX_METRICS_BYTES).splitlines()
        except OSError as error:
            os.replace(path, aside)
            return [f"{path} cannot be read ({error.strerror or error}); it is kept as {aside.name}"]
        rows = [line for line in lines if _step_of(line) in range(1, step + 1)]
        write_atomic(path, b"".join(row + b"\n" for row in rows))
        unreadable = sum(_step_of(line) is None for line in lines[:-1])  # the last one may be cut off by a kill
        return [f"{path}: {unreadable} lines could not be read and were left out"] if unreadable else []


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def _step_of(line: bytes) -> int | None:
    """The step of a line of metrics, None where it cannot be read."""
    try:
        row = json.loads(line)
        return int(row["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
