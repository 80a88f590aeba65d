"""One base in memory for all students of it and their teacher."""

import gc
import weakref
from collections.abc import Iterable

import pytest
import torch
from text_students import BASES, adapter_folder
from tiny_models import tiny_flux
from torch import Tensor, nn

from piflow_cli.engine.students.load import LoadedStudent, load_student
from piflow_cli.engine.students.shared import Bases

KINDS = ("gm", "dx")


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def students(family: str, bases: Bases | None) -> list[LoadedStudent]:
    return [load_student(str(adapter_folder(family, kind)), base=str(BASES[family]), bases=bases) for kind in KINDS]


def velocity(student: LoadedStudent) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *student.space.latent_shape_of(48, 64), generator=generator)
    sigma = torch.tensor([1.0, 0.6])
    with torch.no_grad():
        return student.network.policy(x, sigma, student.space.encode_prompts(["a cat", "a house"])).velocity(x, sigma)


@pytest.mark.parametrize("family", ["flux", "qwen"])
def test_students_and_teacher_hold_the_base_once_and_compute_what_they_do_alone(family: str) -> None:
    bases = Bases()
    shared = students(family, bases)
    teacher = bases.teacher(shared[0].family, device="cpu", dtype=torch.float32)
    base = num_bytes(teacher.module.parameters())
    own = [num_bytes(student.network.own_parameters().values()) for student in shared]
    modules: list[nn.Module] = [student.network for student in shared] + [teacher.module]
    together = num_bytes(p for module in modules for p in module.parameters())
    assert together == base + sum(own)
    for student, alone in zip(shared, students(family, None), strict=True):
        assert torch.equal(velocity(student), velocity(alone))
        assert len({id(s.space.pipeline) for s in shared}) == 1


def test_what_is_put_into_one_reaches_no_other() -> None:
    bases = Bases()
    first = bases.teacher(tiny_flux(), device="cpu", dtype=torch.float32)
    first.module.proj_out = nn.Identity()
    second = bases.teacher(tiny_flux(), device="cpu", dtype=torch.float32)
    assert isinstance(second.module.proj_out, nn.Linear)


def test_other_settings_or_precisions_are_other_bases() -> None:
    bases = Bases()
    settings = [
        (tiny_flux(), torch.float32),
        (tiny_flux(), torch.bfloat16),
        (tiny_flux(guidance_scale=2.0), torch.float32),
    ]
    loaded = [bases.teacher(family, device="cpu", dtype=dtype) for family, dtype in settings]
    assert len({teacher.module.proj_out.weight.data_ptr() for teacher in loaded}) == 3
    assert loaded[1].module.dtype == torch.bfloat16


def test_bases_are_freed_with_what_holds_them() -> None:
    bases = Bases()
    weight = weakref.ref(bases.teacher(tiny_flux(), device="cpu", dtype=torch.float32).module.proj_out.weight)
    assert weight() is not None
    del bases
    gc.collect()
    assert weight() is None
