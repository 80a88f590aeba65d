"""The native student folder: student.json (the card), student.safetensors, and vae/ where the teacher has one."""

import shutil
from pathlib import Path

from piflow_cli.errors import ModelError
from piflow_cli.formats.student import Recipe, StoredStudent, StudentCard
from piflow_cli.weights import read_weights

CARD, WEIGHTS, VAE = "student.json", "student.safetensors", "vae"


class NativeFormat:
    """Everything a student needs in one folder; no base model, no network."""

    name = "native"

    def matches(self, path: Path) -> bool:
        """Whether there is a card."""
        return (path / CARD).is_file()

    def usual_preset(self, path: Path) -> None:
        """None: the card says it."""

    def read(self, path: Path, *, recipe: Recipe | None = None) -> StoredStudent:  # noqa: ARG002
        """Read card and weights; the card says everything, so that no recipe is needed.

        Raises:
            ModelError: a file is missing, damaged, or of a version this release cannot read.
        """
        try:
            text = (path / CARD).read_bytes()
        except OSError as error:
            raise ModelError(f"{path / CARD} cannot be read: {error}") from None
        card = StudentCard.parse(text, origin=path / CARD)
        vae = path / VAE
        return StoredStudent(card=card, weights=read_weights(path / WEIGHTS), vae_folder=vae if vae.is_dir() else None)

    def write(self, student: StoredStudent, folder: Path) -> None:
        """Write card, weights and autoencoder into an empty folder."""
        from safetensors.torch import save_file

        (folder / CARD).write_text(student.card.model_dump_json(indent=2) + "\n", encoding="utf-8")
        weights = {name: tensor.contiguous() for name, tensor in student.weights.items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        if student.vae_folder is not None:
            shutil.copytree(student.vae_folder, folder / VAE)

    def caveats(self, student: StoredStudent) -> tuple[str, ...]:  # noqa: ARG002
        """None: only this package reads the format."""
        return ()
