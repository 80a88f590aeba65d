"""The shift of a base's own scheduler, held against the noise levels that its own pipeline walks through."""

from pathlib import Path

import pytest
import torch
from tiny_models import TEACHERS

from piflow_cli.core.schedule import Shift
from piflow_cli.engine.sample.open import OpenTeacher
from piflow_cli.engine.sample.request import TextRequest
from piflow_cli.engine.sample.sample import sample
from piflow_cli.errors import DataError, ModelError
from piflow_cli.teachers.schedules import scheduler_shift

DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
STEPS = 4


def test_a_fixed_shift_is_that_of_any_size() -> None:
    assert scheduler_shift({"shift": 3.0}, 64, origin="here").m == 3.0
    assert scheduler_shift({}, 64, origin="here").m == 1.0


def test_a_dynamic_shift_is_log_linear_between_its_anchors() -> None:
    found = [scheduler_shift(DYNAMIC, positions, origin="here").log for positions in (256, 2176, 4096)]
    assert found == pytest.approx([0.5, 0.825, 1.15])
    linear = scheduler_shift(DYNAMIC | {"time_shift_type": "linear"}, 4096, origin="here")
    assert linear.m == pytest.approx(1.15)


def test_what_is_no_shift_is_refused() -> None:
    with pytest.raises(ModelError, match="use_karras_sigmas, which is no shift"):
        scheduler_shift({"use_karras_sigmas": True}, 64, origin="here")


@pytest.mark.parametrize("family", ["flux", "z_image", "flux2", "flux2-dev"])
def test_it_is_the_grid_of_the_bases_own_pipeline(family: str, tmp_path: Path) -> None:
    """FLUX.1's goes by the size, FLUX.2's by the steps too, Z-Image's is fixed; all are walked without a stretch."""
    settings = TEACHERS[family](tmp_path / family)
    teacher = settings.load()
    condition = teacher.space.encode_prompts(["a red cat"])
    for size in ((48, 64), (96, 128)):
        settings.base_walk(teacher, condition, size_px=size, seed=0, num_steps=STEPS, scale=1.0)
        walked = teacher.space.pipeline.scheduler.sigmas
        own = teacher.own_shift(size[0] * size[1] // 16**2, num_steps=STEPS)
        expected = own.sigma(torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)).float()
        torch.testing.assert_close(walked, expected, rtol=1e-4, atol=1e-5)


def test_a_teacher_draws_on_its_own_grid(tmp_path: Path) -> None:
    teacher = TEACHERS["flux"](tmp_path / "flux").load()
    opened = OpenTeacher("flux", teacher, Shift(3.2), torch.float32)
    own = teacher.own_shift(TextRequest().latent_shape(opened.space)[-1] * 8 // 4, num_steps=2)
    drawn = {shift: sample(["a red cat"], model=opened, steps=2, shift=shift) for shift in (None, 3.2, "own", own.m)}
    pixels = {shift: result.images[0].tobytes() for shift, result in drawn.items()}
    assert pixels[None] == pixels[3.2] != pixels["own"] == pixels[own.m]
    assert drawn["own"].settings.shift == own.m
    with pytest.raises(DataError, match="a teacher's"):
        sample(["3"], model="digits-1nfe", shift=2.0)


def test_orthogonal_guidance_reaches_text_teachers(tmp_path: Path) -> None:
    """Without the part of the guidance along x_0, its estimate moves at right angles to itself."""
    family = TEACHERS["z_image"]
    teachers = [family(tmp_path / "z", guidance_scale=scale, orthogonal=1.0).load() for scale in (1.0, 4.0)]
    x = torch.randn(2, *teachers[0].space.latent_shape, generator=torch.Generator().manual_seed(0))
    sigma, condition = torch.tensor([0.4, 0.9]), teachers[0].space.encode_prompts(["a red cat", "the house"])
    plain, guided = (teacher.velocity(x, sigma, condition) for teacher in teachers)
    x_0 = x - sigma.view(-1, 1, 1, 1) * plain
    along = ((guided - plain) * x_0).flatten(1).sum(1) / (guided - plain).flatten(1).norm(dim=1)
    assert (along / x_0.flatten(1).norm(dim=1)).abs().max() < 1e-5
    assert (guided - plain).abs().max() > 1e-3
