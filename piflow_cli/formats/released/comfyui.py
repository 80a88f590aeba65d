"""The single file that ComfyUI-piFlow loads beside a base model: LoRA, the head and norm_out by diffusers' names.

Source: the loader of ComfyUI-piFlow (github.com/Lakonik/ComfyUI-piFlow), which takes the released weight files as they
are: what has "lora" in its name is LoRA, all else replaces or extends the base, sizes follow from shapes.
"""

from pathlib import Path

from piflow_cli.errors import ModelError
from piflow_cli.formats.released.files import ReleasedFile, is_adapter_file, plain_names
from piflow_cli.formats.released.heads import HEADS
from piflow_cli.formats.released.layouts import (
    CARD_KEY,
    LAYOUTS,
    PREFIX,
    Layout,
    ask_for_preset,
    head_of,
    released_network,
    to_released,
)
from piflow_cli.formats.student import Recipe, StoredStudent, StudentCard
from piflow_cli.io.checksums import TENSORS_KEY, tensors_sha256
from piflow_cli.io.tensors.files import write_tensors
from piflow_cli.io.weights import read_checked, read_header

ADAPTED = {family: layout for family, layout in LAYOUTS.items() if layout.marks}
"""The families that the loader knows."""


class ComfyUIFormat:
    """One weight file, for the folder models/loras."""

    name, suffix, holds_adapters = "comfyui", ".safetensors", True

    def matches(self, path: Path) -> bool:
        """Whether it is a single file of LoRA and a policy head, with no config beside it."""
        return is_adapter_file(path)

    def usual_preset(self, path: Path) -> str | None:
        """The preset that published students of this family were trained by; the file's name tells the NFE.

        None where the file says it itself, or is of no known family.
        """
        names, metadata = read_header(path)
        family = _family_of(names)
        if CARD_KEY in metadata or family is None:
            return None
        return ADAPTED[family].usual_preset(_policy_of(names, ADAPTED[family]), path)

    def read(self, path: Path, *, recipe: Recipe | None = None) -> StoredStudent:
        """Read an adapter; where it lacks this package's card, the recipe says what the file does not.

        Raises:
            ModelError: it is damaged, of an unknown family, of another base than the recipe's, or there is no recipe.
        """
        weights = plain_names(read_checked(path), source=path)
        file = ReleasedFile(path, weights, read_header(path)[1], config={})
        if CARD_KEY not in file.metadata:
            _check_family(path, list(weights), recipe)
        student = file.student(recipe)
        if student is None:
            raise ask_for_preset(path)
        return student

    def check(self, card: StudentCard) -> None:
        """Raise ModelError, with the reason, for all but adapters of the families that the loader knows."""
        if card.teacher.type not in ADAPTED:
            raise ModelError(
                f"ComfyUI-piFlow puts adapters on bases of the types {', '.join(ADAPTED)}, and on none of type "
                f"{card.teacher.type}. Use --to native or lakonlab."
            )
        head_of(card.policy)
        if card.adapter is None:
            raise ModelError(
                "this student's LoRA is merged into its weights, and ComfyUI-piFlow's file holds an adapter alone. "
                "Convert the student as it was before merging."
            )

    def write(self, student: StoredStudent, place: Path) -> None:
        """Write the file, with the policy and the card in its metadata.

        Raises:
            ModelError: as `check`.
        """
        self.check(student.card)
        weights, _, metadata = to_released(student)
        write_tensors(place, weights, metadata=metadata | {TENSORS_KEY: tensors_sha256(weights)})

    def caveats(self, student: StoredStudent) -> tuple[str, ...]:
        """What ComfyUI-piFlow would get wrong about the student."""
        return released_network(student).caveats + head_of(student.card.policy).caveats(student.card.policy)


def _family_of(names: list[str]) -> str | None:
    """The family whose marks the names have, None for others."""
    marked = (f for f, layout in ADAPTED.items() if any(mark in name for mark in layout.marks for name in names))
    return next(marked, None)


def _policy_of(names: list[str], layout: Layout) -> str | None:
    """The policy whose head the names have."""
    plain = [name.removeprefix(PREFIX) for name in names]
    found = (h.policy for h in HEADS if any(h.from_released(name, layout.projection) is not None for name in plain))
    return next(found, None)


def _check_family(path: Path, names: list[str], recipe: Recipe | None) -> None:
    """Raise ModelError where the names are of no known family, or of another than the recipe's teacher."""
    family = _family_of(names)
    if family is None:
        known = ", ".join(f"{layout.marks[0].strip('.')} ({family})" for family, layout in ADAPTED.items())
        raise ModelError(f"{path} is an adapter of an unknown family: none of its layers is in {known}")
    if recipe is not None and recipe.teacher.type != family:
        raise ModelError(
            f"{path} is an adapter of a {family} base, but preset {recipe.name} is for {recipe.teacher.type}; pass the "
            "preset it was trained by"
        )
