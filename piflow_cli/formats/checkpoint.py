"""A checkpoint of a run, read as the student that it would become: the averaged weights, and the run's own card.

Only training writes checkpoints. They are read while it goes on, without a lock: each is whole or not there.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from piflow_cli.errors import ModelError, StorageError
from piflow_cli.formats.native import VAE, read_card
from piflow_cli.formats.student import StoredStudent, StudentCard
from piflow_cli.io.checksums import check_manifest
from piflow_cli.io.texts.names import user_path

CARD, AVERAGE, FOLDER = "checkpoint.json", "average.", "checkpoints"
CHECKPOINT = re.compile(r"step-(\d{7,})")
AT_STEP = re.compile(r"(.+)@(\d{1,12})")
"""RUN@STEP."""
ANY_STEP = re.compile(r"step-(\d{1,12})")


def name_of(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:07d}"


def steps_of(run: Path) -> list[int]:
    """Steps of the checkpoints in a run's folder, oldest first."""
    found = (CHECKPOINT.fullmatch(path.name) for path in (run / FOLDER).glob("step-*"))
    return sorted(int(match[1]) for match in found if match)


def find_checkpoint(source: str) -> Path | None:
    """The folder of a checkpoint that RUN@STEP or RUN/checkpoints/step-STEP names; None where it is written otherwise.

    Raises:
        ModelError: the run is here and has none of that step.
    """
    at, path = AT_STEP.fullmatch(source), user_path(source)
    if at is not None and not path.exists():
        run, step = user_path(at[1]), int(at[2])
    elif path.parent.name == FOLDER and (named := ANY_STEP.fullmatch(path.name)):
        run, step = path.parents[1], int(named[1])
    else:
        return None
    if not (run / FOLDER).is_dir():
        return None
    found = run / FOLDER / name_of(step)
    if not (found / CARD).is_file():
        there = ", ".join(map(str, steps_of(run))) or "none"
        raise ModelError(
            f"{run} has no checkpoint of step {step}; it has {there}. Runs keep the newest ones alone "
            "(training.checkpoints_kept)."
        )
    return found


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint of a run."""
    return (path / CARD).is_file() and CHECKPOINT.fullmatch(path.name) is not None


def card_of(path: Path) -> StudentCard:
    """The card of the student that a checkpoint would become: its run's, at this step.

    Raises:
        ModelError: the run has written no student yet.
    """
    run = path.absolute().parents[1]
    try:
        card = read_card(run / "student")
    except ModelError as error:
        raise ModelError(
            f"{path} is a checkpoint, and the card that says what it is of cannot be read beside it, in {run}/student: "
            f"{error}"
        ) from None
    return card.model_copy(update={"steps": int(CHECKPOINT.fullmatch(path.name)[1])})


def read_checkpoint(path: Path) -> StoredStudent:
    """The student that a checkpoint would become.

    Raises:
        ModelError: it is damaged, or was removed while it was read.
    """
    card, vae = card_of(path), path.absolute().parents[1] / "student" / VAE
    weights = read_average(path)
    return StoredStudent(card=card, weights=weights, vae_folder=vae if vae.is_dir() else None)


def read_average(path: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint: whole, on the CPU, by the names that students have.

    Raises:
        ModelError: it is damaged, or was removed while it was read.
    """
    from piflow_cli.io.tensors.distributed import read_tensors

    try:
        damaged = check_manifest(path)
        weights = {} if damaged else read_tensors(path, AVERAGE)
    except (StorageError, OSError) as error:
        damaged, weights = [str(error)], {}
    if not path.is_dir():
        raise ModelError(f"{path} was removed while it was read: the run keeps its newest checkpoints alone") from None
    if damaged:
        raise ModelError(f"{path} is damaged: {', '.join(damaged[:3])}. Take another checkpoint of the run.")
    return {name.removeprefix(AVERAGE): tensor for name, tensor in weights.items()}
