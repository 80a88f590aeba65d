"""Benchmarks: honest counts, and comparisons with the teacher."""

import json
from pathlib import Path

import pytest
import torch
from digit_benchmarks import SAMPLES, measure
from tiny_models import dx, student_of

from piflow_cli import registry
from piflow_cli.core.sampling import sample_euler, sample_student
from piflow_cli.core.schedule import Shift
from piflow_cli.engine.benchmark.benchmark import benchmark
from piflow_cli.engine.benchmark.questions import Classes, Questions
from piflow_cli.engine.benchmark.samplers import Meter, student_sampler
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.errors import ModelError, PolicyError
from piflow_cli.io.pictures import to_pictures
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.detectors.reference import load_reference, reference_from_folder
from piflow_cli.teachers.dit.family import DiT

CPU = torch.device("cpu")


def test_rows_are_what_the_samplers_draw(student: LoadedStudent, teacher: DiT) -> None:
    """Written out: draw, decode, round, and let detector and metric see the pictures."""
    result = measure(student, metrics=["fid", "accuracy"], teacher_steps=[3])
    generator = torch.Generator().manual_seed(0)
    noise = torch.stack([torch.randn(1, 8, 8, generator=generator) for _ in range(SAMPLES)])
    labels = torch.arange(SAMPLES) % 10
    loaded = teacher.load()
    latents = [
        sample_student(student.network, student.card.policy, noise, labels, settings=student.card.sampling),
        sample_euler(lambda x, s: loaded.velocity(x, s, labels), noise, num_steps=3, shift=Shift(1.0)),
    ]
    detector = load_detector("digits-cnn")
    reference = load_reference("digits", detector=detector)
    for row, x_0 in zip(result.rows, latents, strict=True):
        features = detector((student.space.decode(x_0) * 255).round() / 255)
        for name in ("fid", "accuracy"):
            metric = registry.resolve("metric", name)
            expected = metric.compute(features, reference, labels=labels, seed=0)[name]
            assert row.scores[name] == pytest.approx(expected, rel=1e-3)


def test_scores_equal_those_of_saved_files(student: LoadedStudent, tmp_path: Path) -> None:
    """Whoever measures the PNGs instead gets the same FID, to the last digit."""
    sampler = student_sampler(student, student.card.sampling, seed=0)
    questions = Questions.in_turn(Classes(10), SAMPLES)
    (batch,) = sampler.pictures(questions, batch_size=256, seed=0, device=torch.device("cpu"), meter=Meter())
    for i, picture in enumerate(to_pictures(batch)):
        picture.save(tmp_path / f"{i:04}.png")
    detector = load_detector("digits-cnn")
    files = reference_from_folder(tmp_path, detector=detector, batch_size=256)
    metric = registry.resolve("metric", "fid")
    from_files = metric.compute(
        type("Features", (), {"features": files.features, "logits": None}),
        load_reference("digits", detector=detector),
        labels=None,
        seed=0,
    )["fid"]
    assert measure(student).rows[0].scores["fid"] == pytest.approx(from_files, rel=1e-6)


def test_table_has_a_row_for_each_student_nfe_solver_and_number_of_steps(student: LoadedStudent) -> None:
    result = measure(student, nfe=[1, 2], teacher_steps=[1, 2, 4], solvers=["euler", "heun"])
    found = [(row.kind, row.method, row.steps, row.nfe) for row in result.rows]
    assert found == [
        ("student", "gmflow", 1, 1),
        ("student", "gmflow", 2, 2),
        *(("teacher", "euler", steps, steps) for steps in (1, 2, 4)),
        *(("teacher", "heun", steps, 2 * steps - 1) for steps in (1, 2, 4)),
    ]
    assert all(row.network_calls == row.nfe for row in result.rows)
    assert all(row.network_s > 0 for row in result.rows)
    assert all(row.policy_s > 0 for row in result.rows if row.kind == "student")
    assert result.samples == SAMPLES
    assert result.rows[0].model == "tiny"
    assert result.rows[2].model.endswith("teacher")


def test_guidance_counts_its_second_call_only_where_it_acts(teacher: DiT) -> None:
    guided = teacher.model_copy(update={"guidance_scale": 2.0, "guidance_interval": (0.0, 0.6)})
    result = measure(student_of(guided), teacher_steps=[4])
    student_row, teacher_row = result.rows
    assert (student_row.nfe, student_row.network_calls) == (1, 1)
    assert (teacher_row.nfe, teacher_row.network_calls) == (4, 6)  # at sigma 1, .75 once, at .5, .25 twice


def test_students_are_compared_with_the_teachers_row_of_most_steps(student: LoadedStudent) -> None:
    result = measure(student, teacher_steps=[1, 8, 2], solvers=["euler", "heun"])
    anchor = next(row for row in result.rows if row.fid_to_teacher is None)
    assert (anchor.method, anchor.steps, anchor.fid_ratio) == ("euler", 8, None)
    assert result.teacher_rows == (f"{anchor.model} euler 8 steps",)
    for row in result.rows:
        if row is not anchor:
            assert row.fid_ratio == pytest.approx(row.scores["fid"] / anchor.scores["fid"])
    distances = {(row.method, row.steps): row.fid_to_teacher for row in result.rows if row is not anchor}
    assert distances["heun", 8] < distances["euler", 2] < distances["euler", 1]
    alone = measure(student)
    assert alone.rows[0].fid_to_teacher is None
    assert alone.teacher_rows == ()


def test_student_that_is_its_teacher_has_no_distance_to_it(teacher: DiT) -> None:
    """One Euler step of a new DX student is one Euler step of the teacher."""
    student = student_of(teacher, dx(), total_substeps=1)
    result = measure(student, teacher_steps=[1])
    assert result.rows[0].fid_to_teacher == pytest.approx(0, abs=1e-4)
    assert result.rows[0].fid_ratio == pytest.approx(1, abs=1e-3)


def test_each_student_is_compared_with_its_own_teacher_and_time_grid(teacher: DiT) -> None:
    guided = teacher.model_copy(update={"guidance_scale": 3.0})
    students = [student_of(teacher), student_of(teacher), student_of(guided), student_of(teacher, shift=3.0)]
    result = measure(students, teacher_steps=[1, 2])
    assert [row.kind for row in result.rows] == ["student"] * 4 + ["teacher"] * 6
    assert [row.shift for row in result.rows[4:]] == [1.0, 1.0, 1.0, 1.0, 3.0, 3.0]
    assert [row.network_calls for row in result.rows[4:]] == [1, 2, 2, 4, 1, 2]
    assert len(result.teacher_rows) == 3
    anchors = [row for row in result.rows if row.fid_to_teacher is None]
    ratios = [row.scores["fid"] / anchor.scores["fid"] for row, anchor in zip(result.rows[1:4], anchors, strict=True)]
    assert [row.fid_ratio for row in result.rows[1:4]] == pytest.approx(ratios)


def test_seed_decides_everything(student: LoadedStudent) -> None:
    options = {"metrics": ["fid", "kid", "precision-recall"], "teacher_steps": [2]}
    scores = [[row.scores for row in measure(student, seed=seed, **options).rows] for seed in (3, 3, 4)]
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]


def test_students_are_sampled_with_every_h_asked_for(student: LoadedStudent) -> None:
    result = measure(student, nfe=[1, 2], h=[0.0, 0.5, 0.5], teacher_steps=[2])
    assert [(row.nfe, row.h) for row in result.rows] == [(1, 0.0), (1, 0.5), (2, 0.0), (2, 0.5), (2, 0.0)]
    fids = [row.scores["fid"] for row in result.rows]
    assert fids[0] == pytest.approx(fids[1], rel=1e-4)  # one evaluation leaves nothing between
    assert fids[2] != pytest.approx(fids[3], rel=1e-3)
    with pytest.raises(PolicyError, match=r"h: .*got -1"):
        measure(student, h=[-1.0])


def test_noise_between_evaluations_depends_on_the_picture_and_not_on_the_batch(student: LoadedStudent) -> None:
    settings = student.card.sampling.model_copy(update={"nfe": 2, "h": 1.0})
    sampler, questions = student_sampler(student, settings, seed=0), Questions.in_turn(Classes(10), 6)

    def pictures(batch_size: int) -> torch.Tensor:
        return torch.cat(list(sampler.pictures(questions, batch_size=batch_size, seed=0, device=CPU, meter=Meter())))

    whole = pictures(6)
    torch.testing.assert_close(pictures(4), whole, rtol=0, atol=1.5 / 255)
    with_others = student_sampler(student, settings, seed=1).pictures(
        questions, batch_size=6, seed=0, device=CPU, meter=Meter()
    )
    assert not torch.allclose(torch.cat(list(with_others)), whole, atol=0.1)


def test_result_says_what_its_numbers_depend_on(student: LoadedStudent) -> None:
    result = measure(student, metrics=["fid", "precision-recall", "is"], teacher_steps=[2], seed=5)
    assert result.titles["fid"] == "digits-FID (not Inception)"
    assert result.better == {"fid": "lower", "precision": "higher", "recall": "higher", "is": "higher"}
    assert (result.reference, result.detector, result.reference_samples) == ("digits", "digits-cnn", 1797)
    table = json.loads(result.to_json())
    assert (table["samples"], table["seed"], table["detector"], table["reference"]) == (30, 5, "digits-cnn", "digits")
    assert set(table["rows"][0]["scores"]) == {"fid", "precision", "recall", "is"}
    assert table["rows"][0]["fid_to_teacher"] == result.rows[0].fid_to_teacher


def test_warnings_say_what_makes_numbers_doubtful(student: LoadedStudent) -> None:
    result = measure(student, nfe=[2])
    assert any("was trained for 1 NFE" in warning for warning in result.warnings)
    assert result.doubts == (
        "FID of 30 pictures in 64 features is far too large: its covariance needs many more pictures than features",
    )
    assert json.loads(result.to_json())["doubts"] == list(result.doubts)
    bare = measure(student, metrics=["accuracy"], reference=None)
    assert (bare.warnings, bare.doubts) == ((), ())


def test_progress_grows_evenly_to_its_end(student: LoadedStudent) -> None:
    seen: list[tuple[int, int, str]] = []
    measure(
        student, nfe=[1, 2], teacher_steps=[2], solvers=["heun"], batch_size=16, on_progress=lambda *at: seen.append(at)
    )
    done, totals, what = zip(*seen, strict=True)
    assert set(totals) == {SAMPLES * (1 + 2 + 3)}
    assert done[-1] == totals[-1]
    assert list(done) == sorted(done)
    assert done[0] == 0, "whoever shows it knows when drawing begins, however long loading took"
    assert len(seen) == 1 + 2 * 3  # batches of 16 and 14, for each row
    assert "tiny gmflow 2 NFE" in what


def test_embedded_students_need_neither_reference_nor_detector() -> None:
    student = student_of(DiT(source="zoo:digits"))
    result = benchmark(models=[student], samples=20, device="cpu", metrics=["fid", "accuracy"])
    assert (result.reference, result.detector) == ("digits", "digits-cnn")
    assert result.rows[0].scores["accuracy"] > 0.5


def test_a_model_of_ones_own_is_measured_against_its_teacher_with_nothing_at_hand(student: LoadedStudent) -> None:
    """Neither detector nor reference: averaged pixels, and the teacher's row of most steps."""
    result = measure(student, reference=None, detector=None, metrics=["fid", "kid"], teacher_steps=[1, 8], intervals=0)
    assert (result.detector, result.reference) == ("pixels", f"{result.rows[-1].model} euler 8 steps")
    assert result.reference_samples == result.samples
    own, short, longest = result.rows
    assert longest.scores["fid"] == pytest.approx(0, abs=1e-3)
    assert longest.paired_error is None
    assert own.scores["fid"] == pytest.approx(own.fid_to_teacher)
    assert 0 < short.paired_error < 2
    assert own.paired_error > 0
    assert "averaged pixels says little" in " ".join(result.doubts)
    named = measure(student, reference="teacher", teacher_steps=[1, 8], intervals=0)
    assert named.rows[0].scores["fid"] == pytest.approx(named.rows[0].fid_to_teacher)


def test_teacher_is_loaded_only_for_rows_of_its_own(student: LoadedStudent) -> None:
    lost = student.card.teacher.model_copy(update={"source": "./nowhere"})
    card = student.card.model_copy(update={"teacher": lost})
    orphan = LoadedStudent(name="orphan", network=student.network, card=card, space=student.space, family=card.teacher)
    assert len(measure(orphan).rows) == 1
    with pytest.raises(ModelError, match="nowhere"):
        measure(orphan, teacher_steps=[1])
