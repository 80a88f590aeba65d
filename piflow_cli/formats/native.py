"""The native student folder: student.json (the card), student.safetensors, and vae/ where the teacher has one."""

import shutil
from pathlib import Path

from piflow_cli.errors import ModelError
from piflow_cli.formats.released.layouts import has_weights
from piflow_cli.formats.student import Recipe, StoredStudent, StudentCard
from piflow_cli.io.bounds import MAX_TEXT_BYTES
from piflow_cli.io.regular import read_regular
from piflow_cli.io.tensors.files import write_tensors
from piflow_cli.io.weights import read_checked

CARD, WEIGHTS, VAE = "student.json", "student.safetensors", "vae"


class NativeFormat:
    """Everything that makes a student, in one folder."""

    name, suffix, holds_adapters = "native", "", True

    def matches(self, path: Path) -> bool:
        """Whether there is a card, and no weights by released names beside it: those are a merged student's."""
        return (path / CARD).is_file() and not has_weights(path)

    def usual_preset(self, path: Path) -> None:
        """None: the card says it."""

    def read(self, path: Path, *, recipe: Recipe | None = None) -> StoredStudent:  # noqa: ARG002
        """Read card and weights; the card says everything, so that no recipe is needed.

        Raises:
            ModelError: a file is missing, damaged, or of a version this release cannot read.
        """
        card, vae = read_card(path), path / VAE
        return StoredStudent(card=card, weights=read_checked(path / WEIGHTS), vae_folder=vae if vae.is_dir() else None)

    def check(self, card: StudentCard) -> None:
        """Every student has a place."""

    def write(self, student: StoredStudent, place: Path) -> None:
        """Write card, weights and autoencoder into an empty folder."""
        write_card(student.card, place)
        write_tensors(place / WEIGHTS, student.weights)
        if student.vae_folder is not None:
            shutil.copytree(student.vae_folder, place / VAE)

    def caveats(self, student: StoredStudent) -> tuple[str, ...]:  # noqa: ARG002
        """None: only this package reads the format."""
        return ()


def read_card(folder: Path) -> StudentCard:
    """The card in a folder.

    Raises:
        ModelError: it is missing, damaged, or of a version this release cannot read.
    """
    try:
        text = read_regular(folder / CARD, max_bytes=MAX_TEXT_BYTES)
    except OSError as error:
        raise ModelError(f"{folder / CARD} cannot be read: {error}") from None
    return StudentCard.parse(text, origin=folder / CARD)


def write_card(card: StudentCard, folder: Path) -> None:
    """Write the card into a folder."""
    (folder / CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
