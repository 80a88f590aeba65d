"""Mistakes are seen before the first picture of a benchmark is drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digit_benchmarks import measure
from PIL import Image
from tiny_models import dx, gmflow, stored_student, student_of

from piflow_cli.engine.benchmark.samplers import Sampler
from piflow_cli.engine.students.load import LoadedStudent, assemble
from piflow_cli.errors import DataError, ModelError, PiflowError, PolicyError
from piflow_cli.teachers.dit.family import DiT


def statistics_without_features(folder: Path) -> str:
    np.savez(folder / "statistics.npz", mu=np.zeros(64), sigma=np.eye(64))
    return str(folder / "statistics.npz")


def pictures_of_another_size(folder: Path) -> str:
    for i in range(3):
        Image.new("RGB", (16, 16)).save(folder / f"{i}.png")
    return str(folder)


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "metric": ({"metrics": ["fit"]}, PiflowError, "unknown metric 'fit'. Did you mean fid"),
    "no metric": ({"metrics": []}, DataError, "no metric was asked for; known are fid"),
    "solver": ({"solvers": ["heum"], "teacher_steps": [1]}, PiflowError, "unknown solver 'heum'. Did you mean heun"),
    "samples": ({"samples": 1}, DataError, "samples is 1; it must be at least 2"),
    "batch size": ({"batch_size": 0}, DataError, "batch_size is 0"),
    "seed": ({"seed": -1}, DataError, "seed is -1"),
    "many samples": ({"samples": 10**9}, DataError, "samples is 1000000000; .* at most 1,000,000"),
    "large batch": ({"batch_size": 10**40}, DataError, "batch_size is a number of more than 30 digits; .* at most"),
    "large seed": ({"seed": 2**64}, DataError, "seed is 18446744073709551616; .* at most 18,446,744,073,709,551,615"),
    "many steps": ({"teacher_steps": [10**6]}, DataError, "teacher_steps is 1000000; .* at most 10,000"),
    "many rows": ({"nfe": range(1, 101), "h": range(100)}, DataError, "100 nfe, 100 h make 10000 rows; .* at most 1,0"),
    "teacher steps": ({"teacher_steps": [4, 0]}, DataError, "teacher_steps is 0; it must be at least 1"),
    "nfe": ({"nfe": [0]}, PolicyError, "nfe.*greater than or equal to 1.*got 0"),
    "no reference": ({"reference": None}, DataError, "compared to their teacher where no --reference is given, and"),
    "teacher left out": ({"reference": "teacher"}, DataError, "--reference teacher is its row of most steps, and"),
    "no classifier": (
        {"detector": "pixels", "metrics": ["is"]},
        DataError,
        r"is needs a classifier, and detector pixels is none: .*inception-2015-12-05\.pt",
    ),
    "reference": ({"reference": "nowhere.npz"}, DataError, "nowhere.npz' does not exist"),
    "detector": ({"detector": "nowhere.pt"}, ModelError, "nowhere.pt"),
    "model": ({"models": ["digits-3nfe"]}, ModelError, "unknown student 'digits-3nfe'"),
    "model before prompts": ({"models": ["digits-3nfe"], "prompts": "none.txt"}, ModelError, "unknown student"),
    "no model": ({"models": []}, DataError, "no model"),
    "device": ({"device": "gpu"}, PiflowError, "unknown device 'gpu'"),
    "too few for a metric": ({"metrics": ["precision-recall"], "samples": 3}, DataError, "more than 3 pictures"),
}


@pytest.mark.parametrize(("change", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_seen_before_the_first_sample(
    student: LoadedStudent, unsampled: None, change: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measure(student, **change)


@pytest.fixture
def unsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    def sampled(*_: object, **__: object) -> None:
        raise AssertionError("sampling began")

    monkeypatch.setattr(Sampler, "pictures", sampled)


@pytest.mark.parametrize(
    ("make", "metrics", "message"),
    [
        (statistics_without_features, ["kid"], "holds only their mean and covariance"),
        (statistics_without_features, ["fid", "precision-recall"], "holds only their mean and covariance"),
        (pictures_of_another_size, ["fid"], "8x8"),
    ],
)
def test_references_that_cannot_serve_are_seen_before_the_first_sample(
    student: LoadedStudent, unsampled: None, tmp_path: Path, make: Callable[[Path], str], metrics: list, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        measure(student, metrics=metrics, reference=make(tmp_path))


def test_a_reference_that_nothing_reads_is_said(student: LoadedStudent) -> None:
    result = measure(student, metrics=["accuracy"], reference="nowhere.npz", samples=4)
    assert any(said.startswith("--reference nowhere.npz was not read: accuracy compares") for said in result.warnings)
    assert not measure(student, metrics=["accuracy"], reference=None, samples=4).warnings


def test_points_student_at_a_foreign_nfe_is_seen_before_the_first_sample(teacher: DiT, unsampled: None) -> None:
    student = student_of(teacher, dx(segment_size=0.5), nfe=2)
    with pytest.raises(PolicyError, match=r"trained on segments of 0\.5"):
        measure(student, nfe=[2, 1])


def test_students_of_different_spaces_are_refused(teacher: DiT, student: LoadedStudent, unsampled: None) -> None:
    other = assemble(stored_student(gmflow(), in_channels=1, out_channels=1, sample_size=4), name="other")
    with pytest.raises(DataError, match="cannot share noise and labels"):
        measure([student, other])


def test_latents_without_an_autoencoder_are_seen_before_the_first_sample(unsampled: None) -> None:
    latent = assemble(stored_student(gmflow()), name="latent")
    with pytest.raises(ModelError, match=r"set teacher\.vae"):
        measure(latent)


def test_pictures_of_a_size_the_detector_does_not_know_are_seen_before_the_first_sample(unsampled: None) -> None:
    small = assemble(stored_student(gmflow(), in_channels=1, out_channels=1, sample_size=4), name="small")
    with pytest.raises(DataError, match="8x8"):
        measure(small)
