"""The checkpoints of a run on disk: found, proved whole before anything is loaded, set aside where damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from piflow_cli import __version__
from piflow_cli.core.settings import Settings
from piflow_cli.errors import StorageError
from piflow_cli.formats.checkpoint import CARD, CHECKPOINT, name_of
from piflow_cli.io.bounds import MAX_TEXT_BYTES
from piflow_cli.io.checksums import check_manifest, has_manifest
from piflow_cli.io.files import PARTIAL
from piflow_cli.io.regular import read_regular

DAMAGED = "damaged-"
PICKLED = ("optimizer.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl")
"""Files of the layout of piflow 0.2 and before; they are never opened."""


class Schedule(Settings):
    """Where a learning rate is on its course."""

    step: int = Field(ge=0, description="steps taken")
    rates: tuple[float, ...] = Field(description="learning rate of each group of parameters for the next step")


class CheckpointCard(Settings):
    """What a checkpoint holds beside tensors."""

    format: Literal["piflow-checkpoint"] = "piflow-checkpoint"
    version: Literal[1] = 1
    piflow_version: str = __version__
    step: int = Field(ge=1, description="training steps taken")
    counters: dict[str, int] = Field(description="of the run: steps, updates, skipped")
    schedules: tuple[Schedule, ...] = Field(description="one an optimiser")
    scaler: dict[str, float] | None = Field(None, description="loss scale of fp16")
    num_processes: int = Field(ge=1, description="processes that trained")
    sharded: bool = Field(description="whether each held a part of the weights")
    micro_batch_size: int = Field(ge=1, description="samples of a forward pass on one process")
    teacher_ratio: float = Field(description="the teacher's share of the next step's trajectories")
    data: tuple[str, ...] = Field((), description="digest of what each micro-batch of the step held, in order")
    draws: tuple[str, ...] = Field(description="digest of each process's generators after the step")
    files: tuple[str, ...] = Field(description="names of the files with tensors")


class Checkpoints:
    """The folder `checkpoints/` of a run.

    Args:
        folder: need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def found(self) -> list[tuple[int, Path]]:
        """Complete checkpoints, oldest first; whether they are whole is for `newest_whole` to say."""
        matches = [(CHECKPOINT.fullmatch(path.name), path) for path in self.folder.glob("step-*")]
        return sorted((int(match[1]), path) for match, path in matches if match)

    def newest_step(self) -> int:
        """Step of the newest checkpoint, or 0."""
        found = self.found()
        return found[-1][0] if found else 0

    def path(self, step: int) -> Path:
        """Of the checkpoint of a step."""
        return self.folder / name_of(step)

    def partial(self, step: int) -> Path:
        """Where the checkpoint of a step is while it is written."""
        return self.folder / f"{PARTIAL}{name_of(step)}"

    def newest_whole(self) -> tuple[CheckpointCard | None, list[str]]:
        """The card of the newest whole checkpoint, None where there are none, and what was wrong with newer ones.

        Damaged ones are renamed, never removed, once an older one is found to be whole.

        Raises:
            StorageError: there are checkpoints, and none is whole.
        """
        damaged: list[tuple[Path, str]] = []
        for _, path in reversed(self.found()):
            card = read_card(path)
            if isinstance(card, CheckpointCard):
                return card, [f"{path} {problem}; it is kept as {self._set_aside(path)}" for path, problem in damaged]
            damaged.append((path, card))
        if not damaged:
            return None, []
        shown = "; ".join(f"{path.name} {problem}" for path, problem in damaged[:4])
        raise StorageError(
            f"no checkpoint in {self.folder} can be used: {shown}. Nothing was removed. Bring a whole one back from a "
            "copy, or choose another --out to start anew."
        )

    def drop_old(self, *, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints."""
        for _, path in self.found()[:-keep]:
            shutil.rmtree(path)

    def _set_aside(self, path: Path) -> str:
        """Rename a damaged checkpoint so that it is no longer found; returns its new name."""
        names = [f"{DAMAGED}{path.name}", *(f"{DAMAGED}{path.name}-{n}" for n in range(2, 1000))]
        name = next(name for name in names if not (path.parent / name).exists())
        try:
            os.rename(path, path.parent / name)
        except OSError as error:
            raise StorageError(f"cannot rename the damaged {path}: {error.strerror or error}") from None
        return name


def read_card(path: Path) -> CheckpointCard | str:
    """The card of a checkpoint whose files are all what its checksums say, or else what is wrong with it."""
    if not has_manifest(path) and any((path / name).exists() for name in PICKLED):
        return "is of an earlier version of piflow, whose pickles are not opened: go on with that version"
    if not has_manifest(path):
        return "is damaged (its checksums are missing)"
    wrong = check_manifest(path)
    if wrong:
        return f"is damaged ({', '.join(wrong[:3])})"
    try:
        card = CheckpointCard.model_validate_json(read_regular(path / CARD, max_bytes=MAX_TEXT_BYTES))
    except (OSError, ValidationError):
        return f"is damaged, or of a later version of piflow ({CARD})"
    if {file.name for file in path.glob("*.safetensors")} != set(card.files):
        return "is damaged (files with tensors are missing, or are not its own)"
    named = CHECKPOINT.fullmatch(path.name)
    if named is not None and int(named[1]) != card.step:
        return f"is damaged (it is of step {card.step})"
    return card
