"""Students with every weight their own hold in float32 what diffusers keeps so of their class."""

from pathlib import Path

import pytest
import torch
from text_students import text_student
from tiny_bases import tiny_wan
from tiny_models import gmflow

from piflow_cli.core.sampling import sample_student
from piflow_cli.engine.students.load import load_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.io.tensors.exact import stays_float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_student_of_wan_keeps_in_float32_what_its_base_does(tmp_path: Path, dtype: torch.dtype) -> None:
    settings = tiny_wan(tmp_path / "base")
    stored = text_student(settings, gmflow(), adapter=None)
    save_student(stored, tmp_path / "student")
    student = load_student(str(tmp_path / "student"), dtype=dtype)
    base = settings.load(dtype=dtype, encoders=False).module
    dtypes = {name: parameter.dtype for name, parameter in base.named_parameters() if not name.startswith("proj_out")}
    module = student.network.module
    found = dict(module.named_parameters())
    assert {name: found[name].dtype for name in dtypes} == dtypes
    for name, parameter in found.items():
        kept = stays_float32(module, name)
        assert torch.equal(parameter, stored.weights[name].to(torch.float32 if kept else dtype)), name
    x = torch.randn(1, *student.space.latent_shape, generator=torch.Generator().manual_seed(0))
    condition, draw = student.space.preview_conditions(1), torch.Generator().manual_seed(1)
    drawn = sample_student(
        student.network, student.card.policy, x, condition, settings=student.card.sampling, generator=draw
    )
    assert drawn.shape == x.shape
    assert bool(torch.isfinite(drawn).all())
