"""Finding, loading and saving students, and choosing the device."""

from dataclasses import dataclass
from pathlib import Path

import torch

from piflow_cli import registry
from piflow_cli.core.interfaces import Space, Teacher
from piflow_cli.core.student import Student
from piflow_cli.engine.storage import atomic_folder, restore_replaced
from piflow_cli.errors import DeviceError, ModelError
from piflow_cli.formats.student import Format, Recipe, StoredStudent, StudentCard
from piflow_cli.teachers.loading import HUB_ID, ZOO, unreachable
from piflow_cli.weights import check_shapes

DEFAULT_STUDENT = "digits-1nfe"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class LoadedStudent:
    """A student ready to sample: its network in eval mode, its card, and its space."""

    name: str
    network: Student
    card: StudentCard
    space: Space


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


def embedded_students() -> dict[str, Path]:
    """Students that ship with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(ZOO.glob("*/students/*/student.json"))}


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
    if HUB_ID.fullmatch(source):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "vae/*"]))
        except Exception as error:  # hub, network and gating errors share no ground class
            raise unreachable(source, error) from error
    raise ModelError(registry.unknown_name("student", source, list(embedded)) + " Or pass a student folder or hub id.")


def read_student(path: Path, *, recipe: Recipe | None = None) -> tuple[StoredStudent, Format]:
    """Read a stored student in whichever registered format it is.

    Args:
        path: its file or folder.
        recipe: the preset it was made by, for formats whose files do not say enough.

    Raises:
        ModelError: no format recognises it, or it is damaged or says too little.
    """
    for name in registry.names("format"):
        candidate = registry.resolve("format", name)()
        if candidate.matches(path):
            return candidate.read(path, recipe=recipe), candidate
    if (path / "metrics.jsonl").exists() or (path / "preset.json").exists():
        raise ModelError(f"{path} is a run that has no student yet; let `piflow distill` finish or be interrupted once")
    raise ModelError(f"{path} is no student in any known format ({', '.join(registry.names('format'))})")


def load_student(
    source: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedStudent:
    """Load a student for sampling.

    Args:
        source: an embedded name, a folder, or a hub id.
        device: where to.
        dtype: of the network; times, policies and rollouts stay float32.

    Raises:
        ModelError: missing, damaged or of wrong shapes.
    """
    path = find_student(source)
    stored, _ = read_student(path)
    return assemble(stored, name=source, device=device, dtype=dtype)


def assemble(
    stored: StoredStudent, *, name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedStudent:
    """Build the network of a stored student and put its weights in."""
    card = stored.card
    folder = stored.vae_folder.parent if stored.vae_folder else None
    module, backbone, space = card.teacher.rebuild(card.network, folder=folder, device=device)
    network = Student(module, backbone=backbone, family=card.policy)
    check_shapes(stored.weights, dict(module.named_parameters()), source=name)
    weights = {key: tensor.to(dtype) for key, tensor in stored.weights.items()}
    module.load_state_dict(weights, strict=False, assign=True)
    backbone.retie(module)
    network.requires_grad_(False).eval().to(device)
    return LoadedStudent(name=name, network=network, card=card, space=space)


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
