"""Patches of students' networks in pixels, and the metric that is about them."""

from pathlib import Path

import pytest
import torch
from text_students import LORA, text_student
from tiny_models import DIGIT_NAMES, gmflow, save_teacher, student_of, tiny_flux, tiny_qwen

from piflow_cli.core.sampling import Stopwatch
from piflow_cli.engine.benchmark.benchmark import benchmark
from piflow_cli.engine.benchmark.samplers import Sampler, patch_px_of, student_sampler
from piflow_cli.engine.students.load import LoadedStudent, assemble
from piflow_cli.errors import DataError
from piflow_cli.metrics.texture.grid_energy import grid_energy, line_powers
from piflow_cli.teachers.dit.family import DiT


def loaded(settings: object, name: str) -> LoadedStudent:
    return assemble(text_student(settings, gmflow(), adapter=LORA), name=name)


@pytest.mark.parametrize("settings", [tiny_flux, tiny_qwen])
def test_a_patch_is_two_by_two_latents(settings: object) -> None:
    student = loaded(settings(), "tiny")
    factor = student.space.factor
    assert patch_px_of([student, student]) == (2 * factor, 2 * factor)


def test_networks_of_other_patches_have_no_grid_in_common(tmp_path: Path) -> None:
    sizes = {"labels": DIGIT_NAMES, "in_channels": 1, "out_channels": 1}
    teachers = [save_teacher(tmp_path / str(side), patch_size=side, **sizes) for side in (1, 2)]
    students = [student_of(DiT(source=str(teacher))) for teacher in teachers]
    assert patch_px_of(students[1:]) == (2, 2)
    with pytest.raises(DataError, match=r"other patches \(tiny 1x1, tiny 2x2 px\)"):
        benchmark(models=students, metrics=["grid-energy"], samples=4, device="cpu", detector="pixels")


def test_rows_have_the_grid_energy_of_their_pictures(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    student = loaded(tiny_flux(width=64, height=80), "tiny")
    options = {"prompts": str(tmp_path / "prompts.txt"), "samples": 12, "device": "cpu", "detector": "pixels"}
    result = benchmark(models=[student], metrics=["grid-energy"], **options)
    noise = torch.Generator().manual_seed(0)
    x_1 = torch.stack([torch.randn(student.space.latent_shape, generator=noise) for _ in range(12)])
    condition = student.space.encode_prompts(["a cat", "a dog"] * 6)
    settings = student.card.sampling
    latents = student_sampler(student, settings, seed=0).draw(x_1, condition, 0, Stopwatch())
    pictures = (student.space.decode(latents) * 255).round() / 255
    expected = grid_energy(line_powers(pictures, patch_px_of([student])))
    assert result.rows[0].scores["grid-energy"] == pytest.approx(expected, rel=1e-3)
    assert (result.titles, result.better) == ({"grid-energy": "grid-energy"}, {"grid-energy": "lower"})
    assert "grid-energy" in result.rows[0].intervals


def test_pictures_of_too_few_patches_are_refused_before_the_first_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(*_: object, **__: object) -> None:
        raise AssertionError("sampling began")

    monkeypatch.setattr(Sampler, "pictures", drawn)
    (tmp_path / "prompts.txt").write_text("a cat\n")
    options = {"prompts": str(tmp_path / "prompts.txt"), "samples": 4, "device": "cpu", "detector": "pixels"}
    with pytest.raises(DataError, match="these have 48x64 pixels in patches of 16x16"):
        benchmark(models=[loaded(tiny_flux(), "tiny")], metrics=["grid-energy"], **options)
