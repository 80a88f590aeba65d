"""Reading stored students and putting them together with the base they need."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from pydantic import ValidationError

from piflow_cli import registry
from piflow_cli.core.interfaces import Space, Teacher, TeacherFamily
from piflow_cli.core.student import Student
from piflow_cli.engine.students.find import find_student
from piflow_cli.engine.students.shared import Bases
from piflow_cli.errors import ModelError
from piflow_cli.formats.checkpoint import card_of, is_checkpoint, read_checkpoint
from piflow_cli.formats.native import NativeFormat, read_card
from piflow_cli.formats.released.layouts import tells_no_steps
from piflow_cli.formats.student import Format, Recipe, StoredStudent, StudentCard, check_sizes
from piflow_cli.io.checksums import MANIFEST, check_manifest
from piflow_cli.io.tensors.exact import held_dtype
from piflow_cli.io.weights import check_shapes
from piflow_cli.preset import Preset, load_preset

PLACE_KEYS = ("transformer", "variant", "revision")
"""Settings of a teacher that say something of its source's files, and nothing of another source's."""


@dataclass
class LoadedStudent:
    """A student ready to sample: its network in eval mode, its card, and its space.

    Args:
        family: the settings of the teacher that it was loaded with.
        teacher: the teacher whose weights an adapted student holds, evaluated through it; None for other students.
        warnings: what a user should know of how it was loaded.
    """

    name: str
    network: Student
    card: StudentCard
    space: Space
    family: TeacherFamily
    teacher: Teacher | None = None
    warnings: tuple[str, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """Of the student's own weights."""
        return next(iter(self.network.own_parameters().values())).dtype

    @property
    def quantization(self) -> str:
        """How its base is held; a student that has all weights itself has none that is quantised."""
        return self.family.quantization if self.card.adapter is not None else "none"


def read_student(path: Path, *, recipe: Recipe | None = None, base: str | None = None) -> tuple[StoredStudent, Format]:
    """Read a stored student in whichever registered format it is, or as what a checkpoint of a run would become.

    Args:
        path: its file or folder.
        recipe: the preset it was made by, for formats whose files do not say enough.
        base: the teacher's folder or hub id, for files that say nothing of it.

    Raises:
        ModelError: no format recognises it, or it is damaged or says too little.
    """
    if is_checkpoint(path):
        stored = read_checkpoint(path)
        check_sizes(stored.card, stored.weights, source=path)
        return stored, NativeFormat()
    for name in registry.names("format"):
        candidate = registry.resolve("format", name)()
        if candidate.matches(path):
            usual = candidate.usual_preset(path) if recipe is None else None
            recipe = load_preset(usual) if usual is not None else recipe
            if isinstance(recipe, Preset):
                recipe = _on_base(recipe, base)
            stored = _checked(candidate.read(path, recipe=recipe), path)
            if usual is not None and tells_no_steps(path):
                stored = replace(stored, warnings=(*stored.warnings, _taken_for(path, usual, stored)))
            return stored, candidate
    several = [f.name for f in sorted(path.iterdir()) if f.is_dir() and _is_student(f)] if path.is_dir() else []
    if several:
        raise ModelError(f"{path} holds several students; add one to the name: {', '.join(several)}")
    if (path / "metrics.jsonl").exists() or (path / "preset.json").exists():
        raise ModelError(f"{path} is a run that has no student yet; let `piflow distill` finish or be interrupted once")
    raise ModelError(f"{path} is no student in any known format ({', '.join(registry.names('format'))})")


def peek_card(path: Path) -> StudentCard | None:
    """The card of a student whose folder has one beside its weights, which are not read; None for other formats.

    Raises:
        ModelError: the card is damaged.
    """
    if is_checkpoint(path):
        return card_of(path)
    return read_card(path) if NativeFormat().matches(path) else None


def _taken_for(path: Path, preset: str, stored: StoredStudent) -> str:
    return (
        f"neither {path.name} nor its name says how it was made; it is taken for one of {preset}, "
        f"{stored.card.sampling.nfe} evaluations. Name another preset where it is of another (--preset)"
    )


def _checked(stored: StoredStudent, path: Path) -> StoredStudent:
    """The student, once its sizes fit together and its files are those that its manifest names.

    A text beside the weights that was changed is warned of: a person may have done it.

    Raises:
        ModelError: damaged, or of sizes that do not fit.
    """
    check_sizes(stored.card, stored.weights, source=path)
    damaged = check_manifest(path) if path.is_dir() else []
    broken = [name for name in damaged if not name.endswith(".json") or name == MANIFEST or not (path / name).exists()]
    if broken:
        raise ModelError(
            f"{path} is damaged: {', '.join(broken[:4])} {'is' if len(broken) == 1 else 'are'} not what was written "
            f"(SHA-256 in {MANIFEST}). Take it from where it is whole; if you changed it yourself, remove {MANIFEST}."
        )
    warnings = tuple(f"{path / name} was changed after the student was written" for name in damaged)
    return replace(stored, warnings=stored.warnings + warnings)


def _is_student(path: Path) -> bool:
    return any(registry.resolve("format", name)().matches(path) for name in registry.names("format"))


def _on_base(recipe: Preset, base: str | None) -> Preset:
    """A recipe with another teacher of the same family, where there is one and students need it."""
    if base is None or not recipe.teacher.students_need_base:
        return recipe
    return recipe.model_copy(update={"teacher": on_base(recipe.teacher, base)})


def load_student(
    source: str,
    *,
    base: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    teacher_changes: dict[str, object] | None = None,
    recipe: Recipe | None = None,
    bases: Bases | None = None,
) -> LoadedStudent:
    """Load a student for sampling.

    Args:
        source: an embedded name, a folder, or a hub id, which may go on with a folder inside: owner/name/folder.
        base: the teacher's folder or hub id, in place of the one that the student names.
        device: where to.
        dtype: of the network; times, policies and rollouts stay float32.
        teacher_changes: settings of the teacher that loading may change, such as quantization or offload_encoders.
        recipe: the preset it was made by, for files that do not say enough.
        bases: those that other students loaded, to stand on one copy of the weights with them.

    Raises:
        ModelError: missing, damaged, of wrong shapes, or for another base.
    """
    stored, _ = read_student(find_student(source), recipe=recipe, base=base)
    changes = teacher_changes
    return assemble(stored, name=source, base=base, device=device, dtype=dtype, teacher_changes=changes, bases=bases)


def assemble(
    stored: StoredStudent,
    *,
    name: str,
    base: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    teacher_changes: dict[str, object] | None = None,
    bases: Bases | None = None,
) -> LoadedStudent:
    """Build the network of a stored student and put its weights in; arguments as `load_student`."""
    card = stored.card
    changes = {key: value for key, value in (teacher_changes or {}).items() if value is not None}
    if base is not None and not card.teacher.students_need_base:
        raise ModelError(f"{name} holds all it needs and takes no base; leave it out")
    family = change_teacher(on_base(card.teacher, base), changes)
    if card.adapter is not None:
        load = family.load if bases is None else partial(bases.teacher, family)
        return _assemble_on_base(stored, load(device=device, dtype=dtype), family, name=name, dtype=dtype)
    if changes.get("quantization", "none") != "none":
        raise ModelError(
            f"quantization {changes['quantization']}: {name} has all weights itself and no base to be quantised; leave "
            "it out, or convert the student to an adapter where it was one"
        )
    folder = stored.vae_folder.parent if stored.vae_folder else None
    module, backbone, space = family.rebuild(card.network, folder=folder, device=device, dtype=dtype)
    network = Student(module, backbone=backbone, family=card.policy)
    check_shapes(stored.weights, dict(module.named_parameters()), source=name)
    weights = {key: tensor.to(held_dtype(module, key, dtype)) for key, tensor in stored.weights.items()}
    module.load_state_dict(weights, strict=False, assign=True)
    network.requires_grad_(False).eval().to(device)
    return LoadedStudent(
        name=name, network=network, card=card, space=space, family=family, warnings=(*stored.warnings, *space.warnings)
    )


def _assemble_on_base(
    stored: StoredStudent, teacher: Teacher, family: TeacherFamily, *, name: str, dtype: torch.dtype
) -> LoadedStudent:
    """The student of an adapter: the base's own module, with the adapter's weights put into it."""
    card = stored.card
    family.check_base(card.network, teacher)
    network = Student(teacher.module, backbone=teacher.backbone, family=card.policy, adapter=card.adapter)
    own = network.own_parameters()
    check_shapes(stored.weights, own, source=name)
    for key, parameter in own.items():
        parameter.data = stored.weights[key].to(device=teacher.space.device, dtype=dtype)
    network.requires_grad_(False).eval()
    warnings = (*stored.warnings, *teacher.space.warnings)
    trained, here = _place(card.teacher), _place(family)
    if trained != here:
        warnings += (f"{name} was trained on {trained} and is loaded onto {here}",)
    return LoadedStudent(
        name=name,
        network=network,
        card=card,
        space=teacher.space,
        family=family,
        teacher=teacher,
        warnings=warnings,
    )


def _place(family: TeacherFamily) -> str:
    """Where a teacher's weights are, in words."""
    values = family.model_dump(include={"source", "transformer"}, exclude_none=True)
    return " with ".join(str(values[key]) for key in ("source", "transformer") if key in values)


def on_base(family: TeacherFamily, base: str | None) -> TeacherFamily:
    """A teacher's settings with another source, where one is given: nothing stays of where and how the first one lay.

    Raises:
        ModelError: the base's name is not allowed.
    """
    if base is None:
        return family
    reset = {key: None for key in PLACE_KEYS if key in type(family).model_fields}
    return change_teacher(family, reset | {"source": base})


def change_teacher(family: TeacherFamily, changes: dict[str, object]) -> TeacherFamily:
    """A teacher's settings with some changed.

    Raises:
        ModelError: the family has no such setting, or not this value.
    """
    unknown = [key for key in changes if key not in type(family).model_fields]
    if unknown:
        raise ModelError(f"students of {family.type} teachers have no setting {', '.join(unknown)}")
    try:
        return type(family).model_validate(family.model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{first['loc'][0]}: {first['msg']} (got {first['input']!r})") from None
