"""Intervals of a benchmark's rows: what has one, that noise shared by rows cancels, and that other seeds lie inside."""

import json
from typing import Any

import pytest
import torch
from tiny_models import dx, student_of

from piflow_cli.engine.benchmark.benchmark import benchmark
from piflow_cli.engine.benchmark.gauge import BenchmarkRow
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.errors import DataError
from piflow_cli.teachers.dit.family import DiT


def measure(student: LoadedStudent, **changes: Any) -> BenchmarkResult:
    arguments: dict[str, Any] = {"models": [student], "samples": 100, "reference": "digits", "detector": "digits-cnn"}
    return benchmark(**arguments | {"device": "cpu"} | changes)


def half(row: BenchmarkRow, name: str) -> float:
    low, high = row.intervals[name]
    return (high - low) / 2


def test_everything_that_a_row_says_has_an_interval(student: LoadedStudent) -> None:
    result = measure(student, metrics=["fid", "kid", "accuracy", "diversity"], teacher_steps=[1, 4])
    own, short, longest = result.rows
    derived = {"fid_ratio", "diversity_ratio", "fid_to_teacher", "paired_error"}
    scores = {"fid", "kid", "accuracy", "diversity"}
    assert set(own.intervals) == scores | derived
    assert set(short.intervals) == scores | derived
    assert set(longest.intervals) == scores
    for row in result.rows:
        assert set(row.without) == set(row.intervals)
        for name, (low, high) in row.intervals.items():
            value = row.scores.get(name, getattr(row, name, None))
            assert low <= value <= high
            assert low + high == pytest.approx(2 * value)
    assert result.intervals == "95%, by a jackknife of 10 to 20 parts"
    table = json.loads(result.to_json())["rows"][0]
    assert table["scores"] == own.scores
    assert table["intervals"]["fid"] == list(own.intervals["fid"])
    assert len(table["without"]["fid"]) == 20


@pytest.mark.parametrize(("samples", "asked", "parts"), [(12, 20, 6), (30, 1000, 15), (30, 10, 10)])
def test_the_parts_that_are_said_are_those_that_were_made(
    student: LoadedStudent, samples: int, asked: int, parts: int
) -> None:
    result = measure(student, metrics=["fid"], samples=samples, intervals=asked, teacher_steps=[1])
    assert all(len(row.without["fid"]) == parts for row in result.rows)
    assert result.intervals == f"95%, by a jackknife of {parts} parts"


def test_parts_of_another_number_are_said_too(student: LoadedStudent) -> None:
    """Twelve pictures make 6 parts, and the ten classes of diversity 10."""
    result = measure(student, metrics=["fid", "diversity"], samples=12, teacher_steps=[1])
    assert {len(without) for row in result.rows for without in row.without.values()} == {6, 10}
    assert result.intervals == "95%, by a jackknife of 6 to 10 parts"


def test_what_rows_share_does_not_widen_what_compares_them(teacher: DiT) -> None:
    """A student that is its teacher's single step: its FID is unsure, its ratio to that step is not."""
    student = student_of(teacher, dx(), total_substeps=1)
    own, _ = measure(student, teacher_steps=[1]).rows
    assert half(own, "fid") > 0.01 * own.scores["fid"]
    assert half(own, "fid_ratio") < 1e-3
    assert half(own, "paired_error") < 1e-3


def test_the_teacher_as_reference_loses_the_same_pictures(student: LoadedStudent) -> None:
    own, _, longest = measure(student, reference="teacher", teacher_steps=[1, 8]).rows
    assert own.scores["fid"] == pytest.approx(own.fid_to_teacher)
    assert own.intervals["fid"] == pytest.approx(own.intervals["fid_to_teacher"], rel=1e-6)
    assert half(longest, "fid") < 1e-3
    low, high = own.intervals["gap_closed"]
    assert low < own.gap_closed < high


def test_other_seeds_lie_inside(student: LoadedStudent) -> None:
    rows = [measure(student, seed=seed, metrics=["fid", "kid"]).rows[0] for seed in range(16)]
    for name in ("fid", "kid"):
        scores = torch.tensor([row.scores[name] for row in rows])
        inside = sum(abs(row.scores[name] - scores.mean()) <= half(row, name) for row in rows)
        assert inside >= 13
        assert sum(half(row, name) for row in rows) / 16 < 4 * scores.std()


def test_no_intervals_where_none_are_asked_for_or_pictures_are_few(student: LoadedStudent) -> None:
    for changes in ({"intervals": 0}, {"samples": 9}):
        result = measure(student, teacher_steps=[1, 2], metrics=["fid", "diversity"], **changes)
        assert "fid" not in result.rows[0].intervals
    assert measure(student, intervals=0).intervals is None
    assert len(measure(student, samples=12).rows[0].without["fid"]) == 6
    with pytest.raises(DataError, match="intervals is 3; it must be 0 for none, or 5 to 1000 parts"):
        measure(student, intervals=3)
