"""Numbers that overflow end in words, wherever pictures are decoded: none is drawn, measured or shown as black."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import run
from safetensors.torch import load_file, save_file
from tiny_models import gmflow, save_teacher, stored_student, tiny_vae
from tiny_pipelines import FAMILIES, latents, pipeline
from torch import nn

from piflow_cli import load_pipeline
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.distill.network import TrainedNetwork
from piflow_cli.engine.sample import sample
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import SamplingError, TrainingError
from piflow_cli.preset import load_preset

TINY = ("training.steps=3", "training.batch_size=2", "training.preview_every=1", "training.preview_images=2")
MEASURE = ("--metric", "fid", "--reference", "digits", "--detector", "digits-cnn", "--samples", "4")


def overflow(module: nn.Module) -> nn.Module:
    """Weights that are finite numbers themselves, and whose products are not."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1e30)
    return module


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """Of 8x8 grey pictures."""
    stored = stored_student(gmflow(), in_channels=1, out_channels=1)
    for tensor in stored.weights.values():
        tensor.mul_(1e30)
    save_student(stored, tmp_path / "student")
    return tmp_path / "student"


def test_a_benchmark_of_pictures_that_are_not_finite_ends_in_words(student: Path) -> None:
    ended = run("benchmark", *MEASURE, "--model", student, "--teacher-steps", "none", cwd=student.parent)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "student gmflow 1 NFE drew latents that are not finite (NaN or infinity) for 4 of 4" in ended.stderr
    assert "its network computed in float32" in ended.stderr
    assert "(--dtype)" in ended.stderr


def test_an_autoencoder_that_overflows_is_seen_before_a_benchmark_samples(tmp_path: Path) -> None:
    save_student(stored_student(gmflow()), tmp_path / "student", vae=overflow(tiny_vae()))
    ended = run("benchmark", *MEASURE, "--model", "student", "--teacher-steps", "none", cwd=tmp_path)
    assert ended.returncode == 1
    assert "the autoencoder made pictures that are not finite" in ended.stderr
    assert "a rehearsal on noise" in ended.stderr
    with pytest.raises(SamplingError, match=r"from latents of .*student, computed in float32"):
        sample(["3"], model=str(tmp_path / "student"), device="cpu")


def warnings_of(tmp_path: Path, *changes: str) -> list[str]:
    """What a run of three steps warns of; it goes on to its end."""
    events: list[DistillEvent] = []
    preset = load_preset("digits-1nfe", [*TINY, *changes])
    assert distill(preset, out=tmp_path / "run", device="cpu", on_event=events.append).step == 3
    assert [event for event in events if event.kind == "checkpoint"]
    return [event.message for event in events if event.kind == "warning"]


def test_a_preview_of_a_student_that_is_not_finite_is_told_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = TrainedNetwork.evaluate_alone

    def overflowing(self: TrainedNetwork, *asked: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        output, embedding = evaluate(self, *asked)
        return output * 1e38 * 1e38, embedding

    monkeypatch.setattr(TrainedNetwork, "evaluate_alone", overflowing)
    told = warnings_of(tmp_path)
    assert len(told) == 3
    assert told[0].startswith("no preview of step 1, and training goes on: the student of step 1 drew latents that are")
    assert "(training.mixed_precision)" in told[0]
    assert not list((tmp_path / "run" / "previews").glob("*.png"))


def test_a_preview_of_a_teacher_that_is_not_finite_is_told_and_the_losses_end_the_run(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher", in_channels=1, out_channels=1, seed=1)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor * 1e30 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    made = ("teacher={type='dit', source='" + str(folder) + "'}", "data={type='noise'}")
    told = warnings_of(tmp_path, *made)
    assert "the teacher in 32 steps drew latents that are not finite (NaN or infinity) for 2 of 2" in told[0]
    assert "(training.teacher_dtype)" in told[0]
    preset = load_preset("digits-1nfe", [*TINY, *made, "optimizer.max_bad_steps=2"])
    with pytest.raises(TrainingError, match="2 steps in a row had a non-finite loss"):
        distill(preset, out=tmp_path / "other", device="cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_pipelines_refuse_pictures_that_are_not_finite(family: str) -> None:
    pipe = pipeline(family)
    overflow(pipe.vae.decoder)
    with pytest.raises(SamplingError, match=r"the autoencoder made pictures that are not finite .*\(torch_dtype\)"):
        latents(pipe, family, output_type="pil")
    assert latents(pipe, family).isfinite().all()


def test_a_dit_pipeline_refuses_pictures_that_are_not_finite(student: Path) -> None:
    with pytest.raises(SamplingError, match="not finite"):
        load_pipeline(student)([3])
