"""Finding, loading and saving students, and choosing the device."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from piflow_cli import registry
from piflow_cli.core.interfaces import Space, Teacher, TeacherFamily
from piflow_cli.core.student import Student
from piflow_cli.errors import DeviceError, ModelError
from piflow_cli.formats.native import read_card
from piflow_cli.formats.student import Format, Recipe, StoredStudent, StudentCard
from piflow_cli.io.files import atomic_folder, restore_replaced
from piflow_cli.io.hub import HUB_ID, unreachable
from piflow_cli.io.weights import check_shapes
from piflow_cli.io.zoo import ZOO
from piflow_cli.preset import Preset, load_preset

DEFAULT_ENTRIES = ("emoji", "digits")
"""Whose students draw and are measured where none is named: the first of what ships that has some."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class LoadedStudent:
    """A student ready to sample: its network in eval mode, its card, and its space.

    Args:
        teacher: the teacher whose weights an adapted student holds, evaluated through it; None for other students.
        warnings: what a user should know of how it was loaded.
    """

    name: str
    network: Student
    card: StudentCard
    space: Space
    teacher: Teacher | None = None
    warnings: tuple[str, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """Of the student's own weights."""
        return next(iter(self.network.own_parameters().values())).dtype


def resolve_device(device: str) -> torch.device:
    """The torch device of `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        DeviceError: no such device here.
    """
    if device == "auto":
        available = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(available)
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"unknown device {device!r}; use auto, cpu, cuda, cuda:N or mps") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device {device} was asked for, but this PyTorch finds no CUDA device; use --device auto")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {device} was asked for, but there are {torch.cuda.device_count()} CUDA devices")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps was asked for, but this machine has none; use --device auto")
    return chosen


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype of a name; `auto` is bfloat16 where the device has instructions for it, else float32."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32


def resolve_precision(name: str, device: torch.device) -> str:
    """accelerate's mixed precision of a name; `auto` is bf16 where `resolve_dtype` gives it, else none."""
    if name != "auto":
        return name
    return "bf16" if resolve_dtype("auto", device) == torch.bfloat16 else "no"


def embedded_students() -> dict[str, Path]:
    """Students that ship with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(ZOO.glob("*/students/*/student.json"))}


def default_students() -> list[str]:
    """The embedded students that draw and are measured where none is named, all of one teacher.

    Raises:
        ModelError: none ship.
    """
    by_entry: dict[str, list[str]] = {}
    for name, folder in embedded_students().items():
        by_entry.setdefault(folder.parents[1].name, []).append(name)
    found = next((by_entry[entry] for entry in DEFAULT_ENTRIES if entry in by_entry), None)
    if found is None:
        raise ModelError("no students are installed with the package: pass --model with a student's folder or hub id")
    return found


def default_student(nfe: int | None = None) -> str:
    """The default student of most evaluations, or the one trained for `nfe`, or for the nearest number to it.

    Raises:
        ModelError: none ship.
    """
    folders = embedded_students()
    trained = {name: read_card(folders[name]).sampling.nfe for name in default_students()}
    wanted = max(trained.values()) if nfe is None else nfe
    return min(trained, key=lambda name: (abs(trained[name] - wanted), -trained[name], name))


def find_student(source: str) -> Path:
    """The local folder or file of a student: an embedded name, a path, a run folder, or a hub id (downloaded).

    Raises:
        ModelError: there is none.
    """
    embedded = embedded_students()
    if source in embedded:
        return embedded[source]
    path = Path(source).expanduser()
    for folder in (path, path / "student"):
        restore_replaced(folder)
    if path.exists():
        return path / "student" if (path / "student" / "student.json").exists() else path
    repository, subfolder = _hub_place(source)
    if repository is not None:
        return _download(source, repository, subfolder)
    raise ModelError(registry.unknown_name("student", source, list(embedded)) + " Or pass a student folder or hub id.")


def _hub_place(source: str) -> tuple[str | None, str]:
    """Repository and folder in it of `owner/name` or `owner/name/folder`; None where the source is neither."""
    parts = source.split("/")
    repository, subfolder = "/".join(parts[:2]), "/".join(parts[2:])
    return (repository if HUB_ID.fullmatch(repository) else None), subfolder


def _download(source: str, repository: str, subfolder: str) -> Path:
    """The local folder of a student on the hub.

    Raises:
        ModelError: unreachable, no such folder, or several students and none named.
    """
    from huggingface_hub import snapshot_download

    prefix = f"{subfolder}/" if subfolder else ""
    patterns = [f"{prefix}*.json", f"{prefix}*.safetensors", f"{prefix}vae/*"]
    try:
        root = Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:  # hub, network and gating errors share no ground class
        raise unreachable(source, error) from error
    folder = root / subfolder
    if not folder.is_dir():
        raise ModelError(f"{repository} has no folder {subfolder}")
    return folder


def read_student(path: Path, *, recipe: Recipe | None = None, base: str | None = None) -> tuple[StoredStudent, Format]:
    """Read a stored student in whichever registered format it is.

    Args:
        path: its file or folder.
        recipe: the preset it was made by, for formats whose files do not say enough.
        base: the teacher's folder or hub id, for files that say nothing of it.

    Raises:
        ModelError: no format recognises it, or it is damaged or says too little.
    """
    for name in registry.names("format"):
        candidate = registry.resolve("format", name)()
        if candidate.matches(path):
            usual = candidate.usual_preset(path) if recipe is None else None
            if usual is not None:
                recipe = _on_base(load_preset(usual), base)
            return candidate.read(path, recipe=recipe), candidate
    several = [f.name for f in sorted(path.iterdir()) if f.is_dir() and _is_student(f)] if path.is_dir() else []
    if several:
        raise ModelError(f"{path} holds several students; add one to the name: {', '.join(several)}")
    if (path / "metrics.jsonl").exists() or (path / "preset.json").exists():
        raise ModelError(f"{path} is a run that has no student yet; let `piflow distill` finish or be interrupted once")
    raise ModelError(f"{path} is no student in any known format ({', '.join(registry.names('format'))})")


def _is_student(path: Path) -> bool:
    return any(registry.resolve("format", name)().matches(path) for name in registry.names("format"))


def _on_base(recipe: Preset, base: str | None) -> Preset:
    """A recipe with another teacher of the same family, where there is one and students need it."""
    if base is None or not recipe.teacher.students_need_base:
        return recipe
    return recipe.model_copy(update={"teacher": change_teacher(recipe.teacher, {"source": base})})


def load_student(
    source: str,
    *,
    base: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    teacher_changes: dict[str, object] | None = None,
    recipe: Recipe | None = None,
) -> LoadedStudent:
    """Load a student for sampling.

    Args:
        source: an embedded name, a folder, or a hub id, which may go on with a folder inside: owner/name/folder.
        base: the teacher's folder or hub id, in place of the one that the student names.
        device: where to.
        dtype: of the network; times, policies and rollouts stay float32.
        teacher_changes: settings of the teacher that loading may change, such as quantization or offload_encoders.
        recipe: the preset it was made by, for files that do not say enough.

    Raises:
        ModelError: missing, damaged, of wrong shapes, or for another base.
    """
    stored, _ = read_student(find_student(source), recipe=recipe, base=base)
    return assemble(stored, name=source, base=base, device=device, dtype=dtype, teacher_changes=teacher_changes)


def assemble(
    stored: StoredStudent,
    *,
    name: str,
    base: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    teacher_changes: dict[str, object] | None = None,
) -> LoadedStudent:
    """Build the network of a stored student and put its weights in; arguments as `load_student`."""
    card = stored.card
    changes = {key: value for key, value in (teacher_changes or {}).items() if value is not None}
    changes |= {"source": base} if base is not None else {}
    if base is not None and not card.teacher.students_need_base:
        raise ModelError(f"{name} holds all it needs and takes no base; leave it out")
    family = change_teacher(card.teacher, changes)
    if card.adapter is not None:
        return _assemble_on_base(stored, family, name=name, device=device, dtype=dtype)
    folder = stored.vae_folder.parent if stored.vae_folder else None
    module, backbone, space = family.rebuild(card.network, folder=folder, device=device, dtype=dtype)
    network = Student(module, backbone=backbone, family=card.policy)
    check_shapes(stored.weights, dict(module.named_parameters()), source=name)
    weights = {key: tensor.to(dtype) for key, tensor in stored.weights.items()}
    module.load_state_dict(weights, strict=False, assign=True)
    backbone.retie(module)
    network.requires_grad_(False).eval().to(device)
    return LoadedStudent(name=name, network=network, card=card, space=space)


def _assemble_on_base(
    stored: StoredStudent, family: TeacherFamily, *, name: str, device: torch.device | str, dtype: torch.dtype
) -> LoadedStudent:
    """The student of an adapter: the base's own module, with the adapter's weights put into it."""
    card = stored.card
    teacher = family.load(device=device, dtype=dtype)
    family.check_base(card.network, teacher)
    network = Student(teacher.module, backbone=teacher.backbone, family=card.policy, adapter=card.adapter)
    own = network.own_parameters()
    check_shapes(stored.weights, own, source=name)
    for key, parameter in own.items():
        parameter.data = stored.weights[key].to(device=device, dtype=dtype)
    network.requires_grad_(False).eval()
    warnings = ()
    if family.source != card.teacher.source:
        warnings = (f"{name} was trained on {card.teacher.source} and is loaded onto {family.source}",)
    return LoadedStudent(name=name, network=network, card=card, space=teacher.space, teacher=teacher, warnings=warnings)


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


def card_of(recipe: Recipe, teacher: Teacher, *, steps: int) -> StudentCard:
    """The card of a student that `recipe` makes of `teacher`."""
    return StudentCard.of(recipe, teacher.network, steps=steps)


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
    """Write a student into an empty folder, with an AutoencoderKL where `stored` names no folder of one."""
    writer.write(stored, folder)
    if vae is not None and stored.vae_folder is None:
        vae.save_pretrained(folder / "vae")
