"""Benchmarks of students of videos: motion beside the teacher's, metrics of pictures by stills, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_runner import run
from text_students import text_student
from tiny_bases import tiny_wan
from tiny_models import DIGIT_NAMES, gmflow, save_teacher, student_of

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.benchmark import benchmark
from piflow_cli.engine.benchmark.drawn.cache import RowCache
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.benchmark.showing.album import Album
from piflow_cli.engine.sample.open import open_student
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import DataError
from piflow_cli.io.tensors.kept import Kept
from piflow_cli.teachers.dit.family import DiT

PROMPTS = ("a red cat", "blue dog on the house", "the cat")
METRICS = ("temporal-diversity", "diversity", "vendi")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("videos")
    tiny = text_student(tiny_wan(place / "base"), gmflow(), sampling=SamplingSettings(nfe=2, total_substeps=8))
    save_student(tiny, place / "student")
    (place / "prompts.txt").write_text("\n".join(PROMPTS))
    return place


def opened(folder: Path) -> LoadedStudent:
    return open_student(str(folder / "student"), device="cpu", dtype="float32")


def measure(folder: Path, student: LoadedStudent | None = None, **changes: Any) -> BenchmarkResult:
    usual = {"metrics": METRICS, "samples": 12, "prompts": str(folder / "prompts.txt"), "device": "cpu"}
    return benchmark(models=[student or opened(folder)], **usual | {"dtype": "float32"} | changes)


def test_videos_are_scored_beside_the_teachers_and_keep_their_protocol(folder: Path) -> None:
    album = Album()
    result = measure(folder, teacher_steps=[2, 4], album=album)
    assert result.frames == 5
    assert result.protocol["frames"].startswith("5; metrics of pictures see up to 4 stills")
    for row in result.rows:
        assert tuple(row.scores) == METRICS
        assert 0 < row.scores["temporal-diversity"] < 1
        low, high = row.intervals["temporal-diversity"]
        assert low < row.scores["temporal-diversity"] < high
        without = row.without["temporal-diversity"]  # parts of two videos each, whose score is a mean over videos
        assert len(without) == 6
        assert sum(without) / 6 == pytest.approx(row.scores["temporal-diversity"], rel=1e-6)
        assert row.fid_to_teacher is None
    student, short, longest = result.rows
    measured = student.scores["temporal-diversity"] / longest.scores["temporal-diversity"]
    assert student.temporal_ratio == pytest.approx(measured)
    assert student.intervals["temporal_ratio"][0] < measured < student.intervals["temporal_ratio"][1]
    assert longest.temporal_ratio is None
    assert 0 < short.paired_error < student.paired_error
    assert longest.paired_error is None
    sheet = album.sheet()
    assert sheet.width > 8 * 96  # four stills of two videos across
    assert measure(folder, batch_size=5).rows[0].scores == pytest.approx(student.scores, rel=1e-4)


def test_a_frozen_student_shows_beside_its_moving_teacher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The student's own videos held at their first frame, the teacher's as they are: 0, and a distance."""
    student = opened(folder)
    decode = student.space.decode
    monkeypatch.setattr(student.space, "decode", lambda x: decode(x)[:, :, :1].expand(-1, -1, 5, -1, -1))
    frozen, teacher = measure(folder, student, metrics=["temporal-diversity"], teacher_steps=[4]).rows
    moving = measure(folder, metrics=["temporal-diversity"]).rows[0]
    assert frozen.scores["temporal-diversity"] == frozen.temporal_ratio == 0
    assert teacher.scores["temporal-diversity"] > 0.01
    assert moving.scores["temporal-diversity"] > 0.01


def test_what_was_seen_of_the_teachers_videos_is_kept(folder: Path, tmp_path: Path) -> None:
    options = {"teacher_steps": [2], "metrics": ["temporal-diversity", "diversity"]}
    first = measure(folder, **options, cache=RowCache(Kept(tmp_path, 10_000_000)))
    album = Album()
    again = measure(folder, **options, cache=RowCache(Kept(tmp_path, 10_000_000)), album=album)
    assert {len(stills) for stills in album._rows.values()} == {4 * 4}
    assert again.rows[1].drawn_on is not None
    assert again.rows[1].scores == first.rows[1].scores
    assert again.rows[0].paired_error == pytest.approx(first.rows[0].paired_error)


def test_metrics_of_pictures_are_refused_by_name_with_what_there_is(folder: Path) -> None:
    refused = r"fid, accuracy are of pictures, and .*student draws videos of 5 frames\. Metrics that take videos: "
    with pytest.raises(DataError, match=refused + r".*clip-score.*temporal-diversity") as told:
        measure(folder, metrics=["fid", "temporal-diversity", "accuracy"])
    assert "kid" not in str(told.value)
    tiny = DiT(source=str(save_teacher(folder / "dit", labels=DIGIT_NAMES, in_channels=1, out_channels=1)))
    with pytest.raises(DataError, match=r"temporal-diversity is of videos, and tiny draws pictures.*: fid, ") as told:
        benchmark(metrics=["temporal-diversity"], models=[student_of(tiny)], samples=4, device="cpu")
    assert "vendi" in str(told.value)


def test_the_command_says_videos_writes_them_and_compares(folder: Path, tmp_path: Path) -> None:
    line = ("benchmark", "--model", folder / "student", "--prompts", folder / "prompts.txt", "--samples", 10)
    line += ("--device", "cpu", "--teacher-steps", "2,3", "--no-cache")
    metrics = ("--metric", "temporal-diversity", "--metric", "vendi")
    done = run(*line, *metrics, "--json", "a.json", "--report", "a.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for said in (
        "10 videos of 5 frames a row of 3 prompts",
        "ms/video",
        "see of videos up to 4 stills: the first frame",
    ):
        assert said in done.stdout
    assert "FID" not in done.stdout
    page = (tmp_path / "a.html").read_text()
    assert "10 videos of 5 frames a row" in page
    assert "ms a video" in page
    assert run(*line, *metrics, "--nfe", 1, "--json", "b.json", cwd=tmp_path).returncode == 0
    compared = run("benchmark", "--compare", "a.json", "b.json", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "protocol: the same" in compared.stdout
    assert "temporal-diversity" in compared.stdout
    assert "temporal ratio" in compared.stdout
    other = json.loads((tmp_path / "b.json").read_text())
    other["protocol"]["frames"] = other["protocol"]["frames"].replace("5;", "9;")
    (tmp_path / "c.json").write_text(json.dumps(other))
    unlike = run("benchmark", "--compare", "a.json", "c.json", cwd=tmp_path)
    assert "does not compare" in unlike.stdout
    plain = run(*line, "--metric", "fid", cwd=tmp_path)
    assert plain.returncode == 1
    assert "fid is of pictures" in plain.stderr
