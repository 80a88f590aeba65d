"""Teacher rows that are kept: the same numbers without drawing, another entry wherever anything differs, and damage."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from text_students import text_student
from tiny_detector import save_detector
from tiny_models import DIGIT_NAMES, gmflow, save_teacher, student_of, tiny_flux

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.benchmark.benchmark import benchmark
from piflow_cli.engine.benchmark.drawn.cache import RowCache
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.benchmark.samplers import Sampler
from piflow_cli.engine.benchmark.showing.album import Album
from piflow_cli.engine.students.load import LoadedStudent, load_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import StorageError
from piflow_cli.io.tensors.kept import Kept
from piflow_cli.teachers.dit.family import DiT

SAMPLES = 20


@pytest.fixture
def teacher(tmp_path: Path) -> DiT:
    return DiT(source=str(saved(tmp_path / "teacher")))


def saved(folder: Path, *, seed: int = 0) -> Path:
    return save_teacher(folder, seed=seed, labels=DIGIT_NAMES, in_channels=1, out_channels=1)


@pytest.fixture
def student(teacher: DiT) -> LoadedStudent:
    return student_of(teacher)


@pytest.fixture
def store(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "kept", 10_000_000)


def measure(student: LoadedStudent, store: Kept | None, **changes: Any) -> BenchmarkResult:
    arguments: dict[str, Any] = {"models": [student], "samples": SAMPLES, "reference": "digits", "batch_size": 8}
    arguments |= {"detector": "digits-cnn", "device": "cpu", "teacher_steps": [1, 2], "intervals": 0}
    return benchmark(**arguments | {"cache": None if store is None else RowCache(store)} | changes)


def kept_rows(result: BenchmarkResult) -> int:
    return sum(row.drawn_on is not None for row in result.rows)


def test_second_time_the_teacher_is_not_drawn(
    student: LoadedStudent, store: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"metrics": ["fid", "kid", "diversity"], "intervals": 5}
    plain, first = measure(student, None, **options), measure(student, store, **options)
    asked, seen = [], []
    drawn = Sampler.pictures
    monkeypatch.setattr(Sampler, "pictures", lambda self, *a, **k: asked.append(self.kind) or drawn(self, *a, **k))
    second = measure(student, store, on_progress=lambda *at: seen.append(at), **options)
    assert set(asked) == {"student"}
    assert (kept_rows(plain), kept_rows(first), kept_rows(second)) == (0, 0, 2)
    for row, again, alone in zip(first.rows, second.rows, plain.rows, strict=True):
        assert row.scores == again.scores == alone.scores
        assert row.intervals == again.intervals
        assert row.network_calls == again.network_calls
    assert [row.network_s for row in second.rows[1:]] == [row.network_s for row in first.rows[1:]]
    assert first.rows[1].drawn_on is None
    assert second.rows[1].drawn_on == time.strftime("%Y-%m-%d")
    assert seen[-1][0] == seen[-1][1]
    assert second.warnings == ()


def test_metrics_of_the_same_features_share_an_entry(student: LoadedStudent, store: Kept) -> None:
    measure(student, store)
    assert kept_rows(measure(student, store, metrics=["kid", "accuracy"])) == 2


def test_pages_show_the_first_pictures_of_kept_rows_too(student: LoadedStudent, store: Kept) -> None:
    album, again = Album(3), Album(3)
    measure(student, store, album=album)
    assert kept_rows(measure(student, store, album=again)) == 2
    assert again.sheet().size == album.sheet().size
    rows = [[picture.tobytes() for picture in pictures] for pictures in album._rows.values()]
    assert sorted(rows) == sorted([p.tobytes() for p in pictures] for pictures in again._rows.values())


CHANGES: dict[str, Callable[[DiT], dict[str, Any]]] = {
    "seed": lambda _: {"seed": 1},
    "samples": lambda _: {"samples": SAMPLES + 1},
    "batch size": lambda _: {"batch_size": 5},
    "steps": lambda _: {"teacher_steps": [3, 4]},
    "solver": lambda _: {"solvers": ["heun"]},
    "precision": lambda _: {"dtype": "bfloat16"},
    "detector": lambda _: {"detector": "pixels", "reference": "teacher"},
    "guidance": lambda teacher: {"models": [student_of(teacher.model_copy(update={"guidance_scale": 2.0}))]},
    "time grid": lambda teacher: {"models": [student_of(teacher, shift=3.0)]},
    "weights of the same name": lambda teacher: {"models": [student_of(retrained(teacher))]},
}


def retrained(teacher: DiT) -> DiT:
    """The same settings, and other weights in the folder."""
    saved(Path(teacher.source), seed=1)
    return teacher


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_taken_for_something_else(student: LoadedStudent, teacher: DiT, store: Kept, change: str) -> None:
    measure(student, store)
    options = CHANGES[change](teacher)
    result = measure(student, store, **options)
    assert kept_rows(result) == 0
    assert [row.scores for row in result.rows] == [row.scores for row in measure(student, None, **options).rows]


def test_another_source_or_library_is_another_entry(
    student: LoadedStudent, store: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(student, store)
    cache = "piflow_cli.engine.benchmark.drawn.cache"
    monkeypatch.setattr(f"{cache}.source_digest", lambda: "other")
    assert kept_rows(measure(student, store)) == 0
    monkeypatch.setattr(f"{cache}.versions_of", lambda _names: {"torch": "9"})
    assert kept_rows(measure(student, store)) == 0


def test_prompts_are_known_by_what_they_say(tmp_path: Path, store: Kept) -> None:
    stored = text_student(tiny_flux(), gmflow(), sampling=SamplingSettings(nfe=1, shift=3.2, total_substeps=16))
    save_student(stored, tmp_path / "student")
    student = load_student(str(tmp_path / "student"))
    prompts = tmp_path / "prompts.txt"
    detector = save_detector(tmp_path / "colours.pt")
    options = {"prompts": str(prompts), "detector": detector, "reference": "teacher", "samples": 4}
    prompts.write_text("a cat\na dog\n")
    measure(student, store, **options)
    assert kept_rows(measure(student, store, **options)) == 2
    prompts.write_text("a cat\na fox\n")
    assert kept_rows(measure(student, store, **options)) == 0


def damage_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [damage_bytes, lambda path: path.write_bytes(path.read_bytes()[:50]), lambda path: path.write_text("x")]
)
def test_damage_is_said_and_drawn_anew(student: LoadedStudent, store: Kept, damage: Callable[[Path], None]) -> None:
    first = measure(student, store)
    paths = sorted(store.folder.iterdir())
    assert len(paths) == 2
    damage(paths[0])
    second = measure(student, store)
    assert kept_rows(second) == 1
    assert [row.scores for row in second.rows] == [row.scores for row in first.rows]
    (warning,) = second.warnings
    assert "damaged and its row is drawn anew" in warning
    third = measure(student, store)
    assert (kept_rows(third), third.warnings) == (2, ())


def test_a_place_that_cannot_be_written_is_said(student: LoadedStudent, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = measure(student, Kept(tmp_path / "file" / "kept", 10**6))
    assert "is not kept: cannot write" in " ".join(result.warnings)
    assert len(result.rows) == 3


def test_entries_are_bounded_and_the_least_recently_used_go(tmp_path: Path) -> None:
    store, tensors = Kept(tmp_path / "kept", 10_000), {"features": torch.zeros(1000)}
    for age, name in enumerate("ab"):
        store.write(name, tensors, {"said": name})
        os.utime(store.folder / f"{name}.safetensors", (age, age))
    assert store.read("a")[1] == {"said": "a"}  # used now
    store.write("c", tensors, {})
    assert sorted(path.stem for path in store.folder.iterdir()) == ["a", "c"]
    store.write("large", {"features": torch.zeros(10_000)}, {})
    assert sorted(path.stem for path in store.folder.iterdir()) == ["a", "c"]
    assert store.read("b") is None
    damage_bytes(store.folder / "a.safetensors")
    with pytest.raises(StorageError, match="is not what was written"):
        store.read("a")
