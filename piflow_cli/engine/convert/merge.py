"""Merging an adapter into the base it was trained on: a student with every weight its own."""

from pathlib import Path

import torch

from piflow_cli.core.adapter import merged_weights
from piflow_cli.core.interfaces import TeacherFamily
from piflow_cli.core.student import Student
from piflow_cli.engine.students.device import DTYPES
from piflow_cli.engine.students.load import on_base
from piflow_cli.errors import ModelError
from piflow_cli.formats.student import StoredStudent
from piflow_cli.io.hub import fetch_folder, locate
from piflow_cli.io.tensors.files import open_tensors
from piflow_cli.io.weights import check_shapes

STORED_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""As weight files name them."""
WEIGHTS = "diffusion_pytorch_model*.safetensors"
"""How diffusers calls the weight files of a transformer."""


@torch.no_grad()
def merge(stored: StoredStudent, *, name: str, base: str | None, dtype: torch.dtype | None) -> StoredStudent:
    """The student of an adapter with LoRA added to the base's weights, and its norm and head in place.

    The sum is taken in float32 and then rounded.

    Args:
        stored: an adapter.
        name: of the student, for messages.
        base: the teacher's folder or hub id, in place of the one that the student names.
        dtype: of the merged weights; None is the base's own.

    Raises:
        ModelError: the base cannot be had, is quantised, or is not the adapter's.
    """
    card = stored.card
    family = on_base(card.teacher, base)
    try:
        dtype = base_dtype(family) if dtype is None else dtype
        teacher = family.load(dtype=dtype, encoders=False)
        family.check_base(card.network, teacher)
    except ModelError as error:
        raise ModelError(f"{name} cannot be merged into its base (--base says where it is): {error}") from error
    network = Student(teacher.module, backbone=teacher.backbone, family=card.policy, adapter=card.adapter)
    own = network.own_parameters()
    check_shapes(stored.weights, own, source=name)
    for key, parameter in own.items():
        parameter.data = stored.weights[key].float()
    weights = {key: tensor.to(dtype) for key, tensor in merged_weights(network.module).items()}
    return StoredStudent(card=card.model_copy(update={"adapter": None}), weights=weights)


def base_dtype(family: TeacherFamily) -> torch.dtype:
    """The dtype that a text-to-image teacher's transformer is stored in: its pipeline's, or its own.

    Raises:
        ModelError: the base cannot be had, has no .safetensors, or is stored in a dtype that nothing is computed in.
    """
    files = _weight_files(family)
    stored = _stored_dtype(files[0]) if files else "unknown"
    if stored not in STORED_DTYPES:
        raise ModelError(
            f"the transformer of {family.source} is stored as {stored}; say in which dtype to compute "
            f"(--dtype {'|'.join(DTYPES)})"
        )
    return STORED_DTYPES[stored]


def base_is_here(family: TeacherFamily) -> bool:
    """Whether the source is a folder on this machine."""
    try:
        return isinstance(locate(family.source), Path)
    except ModelError:
        return False


def _weight_files(family: TeacherFamily) -> list[Path]:
    """The .safetensors of a teacher's transformer, fetched where they are on the hub; none of a pickle or .gguf."""
    known = type(family).model_fields
    own = family.transformer if "transformer" in known else None
    folder = locate(family.source if own is None else own)
    if isinstance(folder, str):
        options = {
            ours: getattr(family, theirs)
            for ours, theirs in (("revision", "revision"), ("local_only", "local_files_only"))
            if theirs in known and (own is None or theirs != "revision")
        }
        patterns = ["transformer/*"] if own is None else [WEIGHTS, f"transformer/{WEIGHTS}"]
        folder = fetch_folder(folder, patterns, **options)
    if folder.is_file():
        return [folder] if folder.suffix == ".safetensors" else []
    inside = folder / "transformer"
    return sorted((inside if inside.is_dir() else folder).glob("*.safetensors"))


def _stored_dtype(file: Path) -> str:
    """The dtype of the first matrix in a weight file, as the file names it."""
    with open_tensors(file) as opened:
        slices = (opened.get_slice(name) for name in opened.keys())  # noqa: SIM118
        return next((part.get_dtype() for part in slices if len(part.get_shape()) > 1), "unknown")
