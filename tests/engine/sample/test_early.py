"""What is asked for is checked against the card: no weight file is opened before, whether it is huge or not there."""

import json
import shutil
from pathlib import Path

import pytest
from cli_runner import run

from piflow_cli.engine.sample import sample
from piflow_cli.engine.students.find import embedded_students
from piflow_cli.errors import DataError, ModelError, PolicyError
from piflow_cli.zoo import emoji


def card_alone(folder: Path, name: str) -> str:
    """A student whose weights are not there, on a base of which only the configs are."""
    shutil.copytree(embedded_students()[name], folder / name, ignore=shutil.ignore_patterns("*.safetensors"))
    card = json.loads((folder / name / "student.json").read_text())
    if name.startswith("emoji"):
        teacher = Path(emoji.__file__).parent / "teacher"
        shutil.copytree(teacher, folder / "base", ignore=shutil.ignore_patterns("*.safetensors"))
        card["teacher"]["source"] = str(folder / "base")
    (folder / name / "student.json").write_text(json.dumps(card))
    return str(folder / name)


REFUSED = {
    "nfe": ("emoji-4nfe", ["a cat", "--nfe", "0"], "nfe: greater than or equal to 1 (got 0)"),
    "nfe of a grid": ("emoji-4nfe-dx", ["a cat", "--nfe", "3"], "segments"),
    "h": ("emoji-4nfe", ["a cat", "--h", "-0.5"], "h: greater than or equal to 0 (got -0.5)"),
    "substeps": ("digits-1nfe", ["3", "--substeps", "9999"], "total_substeps: less than or equal to 4096"),
    "size": (
        "emoji-4nfe",
        ["a cat", "--width", "100"],
        "width 100 is not a positive multiple of 16; the nearest one is 96",
    ),
    "size of classes": ("digits-1nfe", ["3", "--width", "16"], "draws classes at one size"),
    "class": ("digits-1nfe", ["eleven"], "no class 'eleven' in this model"),
    "class out of range": ("digits-1nfe", ["10"], "class 10 is out of range"),
    "prompt": ("emoji-4nfe", [""], "the prompt is empty"),
    "out": ("emoji-4nfe", ["a cat", "--out", "cat.jpg"], "are written as .png"),
    "teacher's steps": (
        "emoji-4nfe",
        ["a cat", "--teacher", "--steps", "0"],
        "nfe: greater than or equal to 1 (got 0)",
    ),
    "teacher's size": (
        "emoji-4nfe",
        ["a cat", "--teacher", "--height", "7"],
        "height 7 is not a positive multiple of 16",
    ),
    "teacher's class": ("digits-1nfe", ["eleven", "--teacher"], "no class 'eleven' in this model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_weights_are_opened(name: str, tmp_path: Path) -> None:
    student, arguments, message = REFUSED[name]
    ended = run("sample", *arguments, "--model", card_alone(tmp_path, student), cwd=tmp_path)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert not list(tmp_path.glob("samples*"))


def test_weights_are_what_is_missing_once_a_request_is_good(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"student\.safetensors"):
        sample(["a cat"], model=card_alone(tmp_path, "emoji-4nfe"), device="cpu")


def test_the_function_checks_as_early(tmp_path: Path) -> None:
    model = card_alone(tmp_path, "emoji-4nfe")
    with pytest.raises(PolicyError, match="nfe: less than or equal to 128"):
        sample(["a cat"], model=model, nfe=200, device="cpu")
    with pytest.raises(DataError, match="width 50"):
        sample(["a cat"], model=model, width=50, device="cpu")
