"""What benchmarks compare: one noise and one set of classes for all, whatever the batch size and the model."""

from pathlib import Path

import pytest
import torch
from tiny_models import save_teacher, student_of
from torch import Tensor

from piflow_cli.core.schedule import Shift
from piflow_cli.engine.benchmark.questions import Classes, Questions
from piflow_cli.engine.benchmark.samplers import Meter, Sampler, student_sampler, teacher_key, teacher_sampler
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.teachers.dit.family import DiT

SAMPLES = 30
CPU = torch.device("cpu")


@pytest.fixture
def teacher(tmp_path: Path) -> DiT:
    return DiT(source=str(save_teacher(tmp_path / "teacher", in_channels=1, out_channels=1)))


@pytest.fixture
def student(teacher: DiT) -> LoadedStudent:
    return student_of(teacher)


def asked(samples: int) -> Questions:
    """Ten classes in turn."""
    return Questions.in_turn(Classes(10), samples)


def pictures_of(sampler: Sampler, *, samples: int = SAMPLES, batch_size: int = 8, seed: int = 0) -> Tensor:
    batches = sampler.pictures(asked(samples), batch_size=batch_size, seed=seed, device=CPU, meter=Meter())
    return torch.cat(list(batches))


def noise_of(sampler: Sampler, **options: int) -> tuple[Tensor, Tensor]:
    """The noise and classes a sampler starts from."""
    seen: list[tuple[Tensor, Tensor]] = []

    def draw(noise: Tensor, condition: Tensor, *_: object) -> Tensor:
        seen.append((noise, condition))
        return noise

    spy = Sampler(**{**sampler.__dict__, "draw": draw})
    pictures_of(spy, **options)
    noises, conditions = zip(*seen, strict=True)
    return torch.cat(noises), torch.cat(conditions)


def test_every_sampler_starts_from_the_same_noise_and_classes(student: LoadedStudent, teacher: DiT) -> None:
    ours = student_sampler(student, student.card.sampling, seed=0)
    theirs = teacher_sampler(teacher.load(), "heun", 2, settings=teacher, shift=Shift(1.0))
    noise, labels = noise_of(ours, batch_size=7)
    other_noise, other_labels = noise_of(theirs, batch_size=30)
    assert torch.equal(noise, other_noise)
    assert torch.equal(labels, other_labels)
    assert torch.bincount(labels).tolist() == [3] * 10
    assert torch.equal(noise_of(ours, samples=10)[0], noise[:10])
    assert not torch.equal(noise_of(ours, seed=1)[0], noise)
    assert noise.std() == pytest.approx(1.0, abs=0.05)


def test_pictures_do_not_depend_on_the_batch_size(student: LoadedStudent) -> None:
    sampler = student_sampler(student, student.card.sampling, seed=0)
    one, other = (pictures_of(sampler, batch_size=size) for size in (4, 30))
    assert (one - other).abs().max() <= 1.01 / 255  # a rounding of the network may cross one of the 256 levels
    assert (one != other).float().mean() < 0.01


def test_pictures_have_the_levels_of_a_file(student: LoadedStudent) -> None:
    pictures = pictures_of(student_sampler(student, student.card.sampling, seed=0))
    assert pictures.shape == (SAMPLES, 1, 8, 8)
    assert torch.equal((pictures * 255).round() / 255, pictures)


def test_cost_is_metered(student: LoadedStudent, teacher: DiT) -> None:
    samplers = [
        student_sampler(student, student.card.sampling, seed=0),
        teacher_sampler(teacher.load(), "heun", 3, settings=teacher, shift=Shift(1.0)),
    ]
    for sampler, evaluations in zip(samplers, (1, 5), strict=True):
        meter = Meter()
        for _ in sampler.pictures(asked(5), batch_size=2, seed=0, device=CPU, meter=meter):
            pass
        assert meter.network_rows == 5 * evaluations
        assert meter.stopwatch.network_s > 0
        assert meter.stopwatch.policy_s > 0


def test_only_samplers_of_one_teacher_guidance_and_time_grid_compare(teacher: DiT) -> None:
    guided = teacher.model_copy(update={"guidance_scale": 2.0})
    keys = {teacher_key(settings, Shift(m)) for settings in (teacher, guided) for m in (1.0, 3.2)}
    assert len(keys) == 4
    student = student_of(teacher)
    theirs = teacher_sampler(teacher.load(), "euler", 2, settings=teacher, shift=Shift(1.0))
    assert student_sampler(student, student.card.sampling, seed=0).teacher == theirs.teacher
