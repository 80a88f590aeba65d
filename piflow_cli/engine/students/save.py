"""Writing students: a folder whole or not at all."""

from pathlib import Path

from piflow_cli import registry
from piflow_cli.core.interfaces import Teacher, TeacherFamily
from piflow_cli.engine.students.load import change_teacher
from piflow_cli.formats.student import Format, Recipe, StoredStudent, StudentCard
from piflow_cli.io.checksums import write_manifest
from piflow_cli.io.files import atomic_folder
from piflow_cli.io.texts.names import user_path

PATH_KEYS = ("source", "transformer", "vae")
"""Settings of a teacher that may be local paths."""


def card_of(recipe: Recipe, teacher: Teacher, *, steps: int) -> StudentCard:
    """The card of a student that `recipe` makes of `teacher`; from any folder it finds what lies on this machine."""
    card = StudentCard.of(recipe, teacher.network, steps=steps)
    return card.model_copy(update={"teacher": anchored(card.teacher)})


def anchored(family: TeacherFamily) -> TeacherFamily:
    """A teacher's settings with absolute paths in the place of relative ones that exist."""
    values = family.model_dump(include=set(PATH_KEYS), exclude_none=True)
    paths = {key: user_path(value) for key, value in values.items()}
    return change_teacher(family, {key: str(path.absolute()) for key, path in paths.items() if path.exists()})


def save_student(stored: StoredStudent, target: Path, *, format_name: str = "native", vae: object = None) -> None:
    """Write a student folder whole or not at all.

    Args:
        stored: card and weights.
        target: the folder; what is there is replaced once the new one is complete.
        format_name: a registered format.
        vae: an AutoencoderKL to put beside the weights, where `stored` names no folder of one.
    """
    with atomic_folder(target) as partial:
        write_student(stored, partial, registry.resolve("format", format_name)(), vae=vae)


def write_student(stored: StoredStudent, folder: Path, writer: Format, *, vae: object = None) -> None:
    """Write a student into an empty folder, with an AutoencoderKL where `stored` names no folder of one.

    A folder gets a manifest of its files; a single file carries the digest of its tensors itself.
    """
    writer.write(stored, folder)
    if vae is not None and stored.vae_folder is None:
        vae.save_pretrained(folder / "vae")
    if folder.is_dir():
        write_manifest(folder)
