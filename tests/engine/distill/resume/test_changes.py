"""A run goes on with what makes no other student, and is refused with the keys of what does."""

import json
from pathlib import Path

import pytest

from piflow_cli.engine.distill.resume.changes import check_changes
from piflow_cli.errors import StorageError
from piflow_cli.preset import Preset, load_preset

FREE = {
    "training.steps": 9000,
    "training.micro_batch_size": 8,
    "training.checkpoint_every": 7,
    "training.preview_every": 0,
    "optimizer.learning_rate": 1e-4,
}
OTHER = {"training.seed": 5, "training.batch_size": 64, "optimizer.weight_decay": 0.1, "sampling.shift": 2.0}


def recipe(**changes: object) -> Preset:
    return load_preset("digits-1nfe", [f"{key}={json.dumps(value)}" for key, value in changes.items()])


def stored() -> dict:
    return json.loads(recipe().model_dump_json())


@pytest.mark.parametrize("key", FREE)
def test_what_makes_no_other_student_is_noted(key: str) -> None:
    (change,) = check_changes(Path("run"), stored(), recipe(**{key: FREE[key]}), {}, {})
    assert change.startswith(f"{key} ")
    assert change.endswith(f"-> {FREE[key]!r}")


@pytest.mark.parametrize("key", OTHER)
def test_what_makes_another_student_is_refused_by_its_key(key: str) -> None:
    with pytest.raises(StorageError, match=rf"another preset \({key}: "):
        check_changes(Path("run"), stored(), recipe(**{key: OTHER[key]}), {}, {})


def test_other_files_are_refused_by_their_names_and_missing_ones_are_left_to_loading() -> None:
    before = {"data.path": "1 file, a", "teacher.source (x)": "1"}
    with pytest.raises(StorageError, match=r"has changed since \(data\.path: 1 file, a there, 1 file, b now\)"):
        check_changes(Path("run"), stored(), recipe(), before, {"data.path": "1 file, b"})
    assert check_changes(Path("run"), stored(), recipe(), before, {"data.path": "1 file, a", "new": "2"}) == []
