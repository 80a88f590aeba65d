"""What a training run leaves on disk: the resolved preset, metrics, previews, checkpoints and the student."""

import json
import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import ValidationError

from piflow_cli import __version__
from piflow_cli.errors import StorageError
from piflow_cli.io.files import atomic_folder, remove_partials, writable_folder, write_atomic
from piflow_cli.preset import Preset, parse_preset

CHECKPOINT = re.compile(r"step-(\d{7})")
FREE_TO_CHANGE = {"checkpoint_every", "checkpoints_kept", "preview_every", "preview_images", "trackers"}
"""Training keys that may differ when a run is resumed: they do not change the student."""


class RunFolder:
    """The folder of one run.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def open(self, preset: Preset, *, resume: bool, needed_bytes: int) -> int:
        """Claim the folder for a preset and return the step of its newest checkpoint, 0 for a new run.

        Raises:
            StorageError: it cannot be written, is too small, holds another preset's run, or must not be resumed. A run
                that never came to a checkpoint is nothing to lose: another preset takes its place.
        """
        stored = self._stored_preset()
        if stored is not None and (self.newest_step() or (self / "student").exists()):
            self._check_same(stored, preset)
        elif stored is None and self.path.is_dir() and any(self.path.iterdir()):
            raise StorageError(f"{self.path} is not empty and holds no run; choose another --out")
        step = self.newest_step() if stored is not None else 0
        if step and not resume:
            raise StorageError(
                f"{self.path} holds a run at step {step} that would be lost. Leave out --no-resume to go on, "
                "choose another --out, or delete the folder."
            )
        writable_folder(self.path, needed_bytes=needed_bytes)
        for folder in (self.path, self / "checkpoints"):
            remove_partials(folder)
        write_atomic(self / "preset.json", preset.model_dump_json(indent=2) + "\n")
        write_atomic(self / "piflow.json", json.dumps({"piflow_version": __version__}) + "\n")
        self._trim_metrics(step)
        return step

    def _stored_preset(self) -> dict | None:
        path = self / "preset.json"
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise StorageError(f"{path} cannot be read ({error}); choose another --out") from None

    def _check_same(self, stored: dict, preset: Preset) -> None:
        try:
            old = parse_preset(stored, origin=str(self / "preset.json")).model_dump(mode="json")
        except (ValidationError, ValueError) as error:
            raise StorageError(f"{self / 'preset.json'} is of another version: {error}") from None
        new = preset.model_dump(mode="json")
        changed = [
            f"{key}: {a!r} there, {b!r} now"
            for key, a, b in _differences(old, new)
            if key.removeprefix("training.") not in FREE_TO_CHANGE and key not in _TEXT
        ]
        if changed:
            shown = "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")
            raise StorageError(
                f"{self.path} holds a run of another preset ({shown}). Runs are not mixed: choose another --out, "
                "or use the same settings to resume."
            )

    def checkpoints(self) -> list[tuple[int, Path]]:
        """Complete checkpoints, oldest first."""
        found = [(CHECKPOINT.fullmatch(p.name), p) for p in (self / "checkpoints").glob("step-*")]
        return sorted((int(match[1]), path) for match, path in found if match)

    def newest_step(self) -> int:
        """Step of the newest checkpoint, or 0."""
        return self.checkpoints()[-1][0] if self.checkpoints() else 0

    def checkpoint(self, step: int) -> Path:
        """Path of the checkpoint of a step."""
        return self / "checkpoints" / f"step-{step:07d}"

    def new_checkpoint(self, step: int) -> AbstractContextManager[Path]:
        """A context that yields a folder which becomes the checkpoint of `step` when the block ends well."""
        return atomic_folder(self.checkpoint(step))

    def drop_old_checkpoints(self, *, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints."""
        for _, path in self.checkpoints()[:-keep]:
            shutil.rmtree(path)

    def append_metrics(self, row: dict) -> None:
        """Add a line to metrics.jsonl."""
        with (self / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _trim_metrics(self, step: int) -> None:
        """Drop what was logged after the checkpoint that training goes on from."""
        path = self / "metrics.jsonl"
        if not path.exists():
            return
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a line cut off by a kill
            if row.get("step", 0) <= step:
                rows.append(line)
        write_atomic(path, "".join(f"{row}\n" for row in rows))


_TEXT = {"summary", "source", "expected", "needs", "name"}


def _differences(a: object, b: object, prefix: str = "") -> list[tuple[str, object, object]]:
    """Leaves in which two JSON trees differ, with their key paths."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        return [d for key in keys for d in _differences(a.get(key), b.get(key), f"{prefix}{key}.")]
    return [] if a == b else [(prefix.removesuffix("."), a, b)]
