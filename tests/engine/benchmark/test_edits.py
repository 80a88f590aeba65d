"""Benchmarks of students that edit: each row of the prompts brings its own pictures, to student and teacher alike."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from text_students import text_student
from tiny_bases import tiny_flux2
from tiny_models import gmflow, tiny_flux
from tiny_qwen_edit import tiny_qwen_edit

from piflow_cli.core.conditions import Instruction
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.data.prompt_lists import read_prompt_list
from piflow_cli.engine.benchmark.benchmark import benchmark
from piflow_cli.engine.benchmark.questions import Prompts, Questions
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.benchmark.samplers import Sampler
from piflow_cli.engine.benchmark.showing.album import Album
from piflow_cli.engine.students.load import LoadedStudent, assemble
from piflow_cli.errors import DataError
from piflow_cli.metrics.metric import Groups

SETTINGS = SamplingSettings(nfe=1, total_substeps=4)
ROWS = [
    {"prompt": "a red cat", "references": "cat.png"},
    {"prompt": "a red cat", "references": ["dog.png"]},
    {"prompt": "a red cat", "references": ["cat.png", "hat.png"]},
    {"prompt": "a dog"},
]
SIZES = {"cat": (96, 64), "dog": (96, 64), "hat": (80, 112), "small": (40, 64)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows of prompts and their pictures."""
    for i, (name, size) in enumerate(SIZES.items()):
        fields = np.random.default_rng(i).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(fields).resize(size, Image.Resampling.NEAREST).save(tmp_path / f"{name}.png")
    write(tmp_path, ROWS)
    return tmp_path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> LoadedStudent:
    base = tiny_flux2(tmp_path_factory.mktemp("flux2") / "base")
    return assemble(text_student(base, gmflow(), sampling=SETTINGS), name="editor")


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))


def measured(folder: Path, student: LoadedStudent, **changes: Any) -> BenchmarkResult:
    usual = {"samples": 4, "prompts": str(folder / "edits.jsonl"), "detector": "pixels"}
    return benchmark(**{"models": [student], "device": "cpu", "batch_size": 4, "teacher_steps": [2]} | usual | changes)


def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[torch.Tensor]]:
    """The pictures that every row draws from now on, by its model."""
    seen: dict[str, list[torch.Tensor]] = {}
    own = Sampler.pictures

    def spy(self: Sampler, *args: Any, **options: Any) -> Any:
        for batch in own(self, *args, **options):
            seen.setdefault(self.kind, []).append(batch)
            yield batch

    monkeypatch.setattr(Sampler, "pictures", spy)
    return seen


def test_every_prompt_is_encoded_with_its_own_pictures(folder: Path, student: LoadedStudent) -> None:
    listed = read_prompt_list(str(folder / "edits.jsonl"))
    assert [listed.num_pictures(i) for i in range(4)] == [1, 1, 2, 0]
    asked = Questions.in_turn(Prompts(listed, student.space), 6)
    condition = asked.condition(student.space, 0, 6)
    pictures = {name: Image.open(folder / f"{name}.png").convert("RGB") for name in SIZES}
    about = [("cat",), ("dog",), ("cat", "hat"), (), ("cat",), ("dog",)]
    for i, names in enumerate(about):
        prompt = Instruction(ROWS[i % 4]["prompt"], tuple(pictures[name] for name in names))
        (expected,) = student.space.encode_prompts([prompt]).rows()
        row = condition.rows()[i]
        torch.testing.assert_close(row.embeds, expected.embeds)
        assert (row.references.sizes[0] if row.references else ()) == (
            expected.references.sizes[0] if expected.references else ()
        )
        if names:
            torch.testing.assert_close(row.references.tokens, expected.references.tokens)


def test_the_same_prompt_about_other_pictures_is_another_one(folder: Path, student: LoadedStudent) -> None:
    subjects = Prompts(read_prompt_list(str(folder / "edits.jsonl")), student.space)
    assert Questions.grouped(subjects, Groups(num_groups=9, group_size=1)).numbers.tolist() == [0, 1, 2, 3]


def test_student_and_teacher_see_the_pictures(
    folder: Path, student: LoadedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = drawn(monkeypatch)
    result = measured(folder, student, album=(album := Album(4)))
    first = {kind: torch.cat(batches) for kind, batches in seen.items()}
    assert {row.kind for row in result.rows} == {"student", "teacher"}
    sheet = album.sheet()
    seen.clear()
    write(folder, [row | ({"references": "hat.png"} if i == 0 else {}) for i, row in enumerate(ROWS)])
    other = measured(folder, student, album=(plain := Album(4)))
    for kind, batches in seen.items():
        change = (torch.cat(batches) - first[kind]).abs().amax(dim=(1, 2, 3))
        assert change[1:].max() == 0, "rows whose pictures stayed"
        assert change[0] > 0, kind
    assert other.protocol["asked for"] != result.protocol["asked for"]
    assert sheet.tobytes() != plain.sheet().tobytes()
    rows = len(result.rows)
    write(folder, [{"prompt": row["prompt"]} for row in ROWS])
    measured(folder, student, album=(bare := Album(4)))
    assert sheet.height > bare.sheet().height, f"a row of references above those of {rows}"


def test_pictures_are_known_by_what_they_show(folder: Path, tmp_path: Path) -> None:
    listed = read_prompt_list(str(folder / "edits.jsonl"))
    before, texts = listed.digest(4), listed.texts
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert read_prompt_list(str(tmp_path / "elsewhere" / "edits.jsonl")).digest(4) == before
    shutil.copy(folder / "dog.png", folder / "cat.png")
    changed = read_prompt_list(str(folder / "edits.jsonl"))
    assert changed.digest(4) != before
    assert changed.texts.digest() == texts.digest()


def test_csv_names_pictures_too(folder: Path) -> None:
    (folder / "edits.csv").write_text("prompt,references\na cat,cat.png\na dog,\n")
    listed = read_prompt_list(str(folder / "edits.csv"))
    assert [listed.num_pictures(i) for i in range(2)] == [1, 0]
    assert listed.asked(1) == "a dog"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": "a", "references": "small.png"}],
            "reference picture small.png of the prompt 'a' is not taken: Image",
        ),
        ([{"prompt": "a", "references": "none.png"}], "none.png of the prompt 'a' is not there"),
        ([{"prompt": "a", "references": "edits.jsonl"}], "edits.jsonl does not decode as a picture"),
        ([{"prompt": "a", "references": ["cat.png"] * 11}], "takes 0 to 10 reference pictures of a prompt, and 11"),
    ],
)
def test_what_is_not_taken_is_named_before_anything_is_drawn(
    folder: Path, student: LoadedStudent, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], message: str
) -> None:
    seen = drawn(monkeypatch)
    write(folder, ROWS + rows)
    with pytest.raises(DataError, match=message):
        measured(folder, student, samples=5)
    assert not seen


def test_models_that_take_none_or_need_one_say_how_they_are_given(folder: Path, tmp_path: Path) -> None:
    plain = assemble(text_student(tiny_flux(), gmflow(), sampling=SETTINGS), name="plain")
    with pytest.raises(DataError, match=r"plain draws from prompts alone .* \(`references` in the rows of --prompts\)"):
        measured(folder, plain)
    write(folder, [{"prompt": "a cat"}])
    editor = assemble(text_student(tiny_qwen_edit(tmp_path / "base"), gmflow(), sampling=SETTINGS), name="editor")
    with pytest.raises(DataError, match="none is given: pass `references` in the rows of --prompts"):
        measured(folder, editor)
