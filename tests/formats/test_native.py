"""The native student folder: its card, and what is said where it is damaged."""

import json
import math
from pathlib import Path

import pytest
import torch
from tiny_models import gmflow, stored_student

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.errors import ModelError
from piflow_cli.formats.native import CARD, WEIGHTS, NativeFormat
from piflow_cli.formats.student import StudentCard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    NativeFormat().write(stored_student(gmflow()), tmp_path)
    return tmp_path


def test_card_is_readable_json_with_everything_in_it(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    assert card["format"] == "piflow-student"
    assert card["version"] == 1
    assert card["policy"]["type"] == "gmflow"
    assert card["policy"]["num_components"] == 3
    assert card["teacher"]["guidance_scale"] == 1.5
    assert card["sampling"]["nfe"] == 1
    assert card["network"]["config"]["num_layers"] == 2
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]


@pytest.mark.parametrize(
    "h",
    [
        0.0,
        0.5,
        math.inf,
    ],
)
def test_stochasticity_survives_the_card(tmp_path: Path, h: float) -> None:
    student = stored_student(gmflow(), sampling=SamplingSettings(nfe=2, h=h))
    NativeFormat().write(student, tmp_path)
    assert NativeFormat().read(tmp_path).card.sampling.h == h


def test_missing_files_are_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=f"there is no file .*{WEIGHTS}"):
        NativeFormat().read(folder)
    (folder / CARD).unlink()
    assert not NativeFormat().matches(folder)
    with pytest.raises(ModelError, match=CARD):
        NativeFormat().read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version: Input should be 1"),
        ({"format": "other"}, "format: Input should be 'piflow-student'"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"policy": {"type": "nonsense"}}, "unknown policy 'nonsense'"),
        ({"teacher": {}}, "needs a type: one of dit"),
        ({"sampling": {"nfe": 0}}, r"sampling\.nfe: Input should be greater than or equal to 1"),
    ],
)
def test_card_that_cannot_be_read_says_where(folder: Path, change: dict, message: str) -> None:
    card = json.loads((folder / CARD).read_text()) | change
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(ModelError, match=message):
        NativeFormat().read(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_card_that_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / CARD).write_bytes(content)
    with pytest.raises(ModelError, match="is no student card"):
        NativeFormat().read(folder)


def test_card_of_a_recipe_says_who_made_it() -> None:
    student = stored_student(gmflow())

    class Recipe:
        name = "mine"
        teacher, policy, sampling = student.card.teacher, student.card.policy, student.card.sampling
        adapter = None

    card = StudentCard.of(Recipe(), student.card.network, steps=5)
    assert (card.preset, card.steps, card.policy) == ("mine", 5, student.card.policy)
    other = gmflow(num_components=7)
    assert StudentCard.of(Recipe(), {}, policy=other).policy == other


def test_non_contiguous_weights_are_written(tmp_path: Path) -> None:
    student = stored_student(gmflow())
    name = "proj_out_2.means.weight"
    student.weights[name] = student.weights[name].T.contiguous().T
    NativeFormat().write(student, tmp_path)
    assert torch.equal(NativeFormat().read(tmp_path).weights[name], student.weights[name])
