"""Proofs that a student survived: by its tensors, and by what its network and its samples are on random input."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from piflow_cli.core.sampling import sample_student
from piflow_cli.engine.convert.merge import base_dtype
from piflow_cli.engine.students.device import DTYPES
from piflow_cli.engine.students.load import LoadedStudent, assemble, on_base
from piflow_cli.errors import ModelError
from piflow_cli.formats.student import StoredStudent

VERIFY_SAMPLES = 4
VERIFY_SIGMAS = (1.0, 0.75, 0.5, 0.1)
VERIFY_PX = 256
"""Width and height at which students of any size are compared."""


@dataclass(frozen=True)
class Difference:
    """How far the outputs of two students lie apart.

    Args:
        largest: absolute.
        relative: root mean square of the difference over that of the outputs.
    """

    largest: float
    relative: float


def largest_difference(a: LoadedStudent, b: LoadedStudent, *, seed: int = 0) -> float:
    """The largest absolute difference between two students: network outputs at several noise levels, and samples.

    Args:
        a, b: students of the same latent space.
        seed: of the random input.
    """
    return _compare(_outputs(a, seed=seed), _outputs(b, seed=seed)).largest


def difference_on_base(
    stored: StoredStudent, back: StoredStudent, *, name: str, base: str | None, device: torch.device
) -> Difference:
    """The difference of two stored students, of which one is in memory at a time; what of as `largest_difference`.

    Args:
        stored, back: the source, and what was written of it.
        name: of the source, for messages.
        base: the teacher's folder or hub id, in place of the one that the students name.
        device: where they run: in float32, and those on a base in the dtype of the base or of the merged weights.

    Raises:
        ModelError: the base cannot be had, or is not theirs.
    """
    card = stored.card
    sizes = {key: VERIFY_PX for key in ("width", "height") if key in type(card.teacher).model_fields}
    dtype = torch.float32
    if card.needs_base:
        merged = back.card.adapter is None
        dtype = DTYPES.get(back.card.dtype, dtype) if merged else base_dtype(on_base(card.teacher, base))
    outputs = []
    for student in (stored, back):
        loaded = assemble(student, name=name, base=base, device=device, dtype=dtype, teacher_changes=sizes)
        outputs.append(_outputs(loaded, seed=0))
        del loaded
    return _compare(*outputs)


def _compare(ours: list[Tensor], theirs: list[Tensor]) -> Difference:
    one, other = (torch.cat([tensor.double().flatten() for tensor in tensors]) for tensors in (ours, theirs))
    apart = one - other
    return Difference(largest=float(apart.abs().max()), relative=float(apart.norm() / one.norm().clamp(min=1e-12)))


@torch.no_grad()
def _outputs(student: LoadedStudent, *, seed: int) -> list[Tensor]:
    """On random latents: network outputs, what the head reads off the embedding, and latents sampled from them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((VERIFY_SAMPLES, *student.space.latent_shape), generator=generator)
    x = x.to(next(student.network.parameters()).device)
    condition = student.space.preview_conditions(len(x))
    outputs = []
    for sigma in VERIFY_SIGMAS:
        found = student.network(x, x.new_full((len(x),), sigma), condition)
        outputs += [tensor for tensor in found if tensor is not None]
    generator = torch.Generator().manual_seed(0)
    settings = student.card.sampling
    latents = sample_student(student.network, student.card.policy, x, condition, settings=settings, generator=generator)
    return [tensor.cpu() for tensor in (*outputs, latents)]


def check_same(written: StoredStudent, back: StoredStudent, *, place: Path) -> None:
    """Raise ModelError unless card and weights were read back bit for bit."""
    if written.card != back.card:
        raise ModelError(f"{place} does not read back with the card that was written")
    differing = [
        name
        for name in dict.fromkeys([*written.weights, *back.weights])
        if name not in back.weights
        or name not in written.weights
        or written.weights[name].dtype != back.weights[name].dtype
        or not torch.equal(written.weights[name].cpu(), back.weights[name].cpu())
    ]
    if differing:
        raise ModelError(f"{place} does not read back as it was written: {', '.join(differing[:4])}")
