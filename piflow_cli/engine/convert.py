"""Converting students between formats, and proving that nothing changed on the way."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from piflow_cli import registry
from piflow_cli.core.sampling import sample_student
from piflow_cli.engine.models import LoadedStudent, assemble, find_student, read_student, write_student
from piflow_cli.engine.storage import atomic_folder, writable_folder
from piflow_cli.errors import PiflowError, StorageError
from piflow_cli.formats.student import Format
from piflow_cli.preset import load_preset

VERIFY_SAMPLES = 4
VERIFY_SIGMAS = (1.0, 0.75, 0.5, 0.1)


@dataclass(frozen=True)
class ConvertResult:
    """What was written.

    Args:
        path: the student's folder.
        format: its format.
        source_format: the format it came from.
        num_tensors: tensors written.
        max_difference: largest absolute difference between the outputs of the two students, None where not verified.
        warnings: what a user should know, such as what other readers of the format get wrong.
    """

    path: Path
    format: str
    source_format: str
    num_tensors: int
    max_difference: float | None
    warnings: tuple[str, ...]


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    to: str,
    verify: bool = False,
    preset: str | Path | None = None,
    force: bool = False,
) -> ConvertResult:
    """Write a student in another format; every tensor keeps its values and its dtype.

    Args:
        src: an embedded student's name, a student or run folder, a released weight file, or a hub id.
        dst: the folder to write; it must not exist.
        to: a registered format, such as native or lakonlab.
        verify: read the written student back and compare its network's outputs and its samples with the source's.
        preset: what it was trained by, for sources that do not say it themselves.
        force: replace a student that is at `dst`; anything else there is refused all the same.

    Raises:
        ModelError: the source is missing, damaged, of no known format, or says too little; or the format has no place
            for such a student.
        PresetError: there is no such preset.
        StorageError: `dst` exists or cannot be written.
    """
    writer: Format = _format(to)
    target = Path(dst).expanduser()
    _check_target(target, force=force)
    recipe = load_preset(preset) if preset is not None else None
    stored, reader = read_student(find_student(str(src)), recipe=recipe)
    warnings = list(writer.caveats(stored))
    if recipe is not None and stored.card.preset != recipe.name:
        warnings.append(
            f"preset {recipe.name} was not needed and not used: {src} says itself how it was made"
            + (f" ({stored.card.preset})" if stored.card.preset else "")
        )
    source = assemble(stored, name=str(src))
    needed = sum(tensor.nbytes for tensor in stored.weights.values())
    writable_folder(target.parent, needed_bytes=needed)
    difference = None
    with atomic_folder(target) as partial:
        write_student(stored, partial, writer, vae=getattr(source.space, "vae", None))
        if verify:
            difference = largest_difference(source, assemble(writer.read(partial), name=str(target)))
    return ConvertResult(
        path=target,
        format=writer.name,
        source_format=reader.name,
        num_tensors=len(stored.weights),
        max_difference=difference,
        warnings=tuple(warnings),
    )


@torch.no_grad()
def largest_difference(a: LoadedStudent, b: LoadedStudent, *, seed: int = 0) -> float:
    """The largest absolute difference between two students: network outputs at several noise levels, and samples.

    Args:
        a, b: students of the same latent space.
        seed: of the random input.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((VERIFY_SAMPLES, *a.space.latent_shape), generator=generator)
    pairs = list(zip(_outputs(a, x), _outputs(b, x), strict=True))
    return max(float((one.float() - other.float()).abs().max()) for one, other in pairs)


def _outputs(student: LoadedStudent, x: Tensor) -> list[Tensor]:
    """Network outputs and what the head reads off the embedding at x (B, C, *S), and latents sampled from it."""
    condition = student.space.preview_conditions(len(x))
    outputs = []
    for sigma in VERIFY_SIGMAS:
        found = student.network(x, x.new_full((len(x),), sigma), condition)
        outputs += [tensor for tensor in found if tensor is not None]
    generator = torch.Generator().manual_seed(0)
    settings = student.card.sampling
    latents = sample_student(student.network, student.card.policy, x, condition, settings=settings, generator=generator)
    return [*outputs, latents]


def _format(name: str) -> Format:
    return registry.resolve("format", name)()


def _check_target(target: Path, *, force: bool) -> None:
    """Refuse to write over anything but, where forced, a student."""
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise StorageError(f"{target} exists and is never written over; choose another DST, or --force to replace it")
    if target.is_dir() and (not any(target.iterdir()) or _is_student(target)):
        return
    raise StorageError(f"{target} is no student folder, so --force does not replace it; choose another DST")


def _is_student(path: Path) -> bool:
    try:
        return any(_format(name).matches(path) for name in registry.names("format"))
    except PiflowError:
        return False  # damaged: nobody can say that it is one
