"""The command line as a user meets it: results, exit codes, and one clear message for each mistake."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import run

TINY = ["training.batch_size=4", "training.preview_every=0", "sampling.total_substeps=16", "data.type=noise"]
SETTINGS = [part for setting in TINY for part in ("--set", setting)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    process = run("distill", "--preset", "digits-1nfe", "--steps", 2, *SETTINGS, "--out", "run", cwd=folder)
    assert process.returncode == 0, process.stderr
    assert "piflow sample" in process.stdout
    assert "2 steps in" in process.stderr
    return folder / "run"


def test_sample_says_where_pictures_are_and_what_they_cost(finished: Path, tmp_path: Path) -> None:
    process = run("sample", "3", "seven", "--model", finished, "--out", "pictures", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[:2] == ["pictures/3-seed0.png", "pictures/seven-seed0.png"]
    assert "network" in process.stdout
    assert "policy" in process.stdout
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["3-seed0.png", "grid.png", "seven-seed0.png"]


def test_a_dash_is_a_prompt_for_each_line_of_stdin(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (["-"], ["--prompts", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"3\n\nseven\n")))
        process = run("sample", *arguments, "--model", finished, "--no-grid", "--out", "drawn", "--json", cwd=tmp_path)
        assert json.loads(process.stdout)["prompts"] == ["3", "seven"]


def test_models_stand_beside_each_other_on_one_sheet(finished: Path, tmp_path: Path) -> None:
    line = ("sample", "3", "7", "--model", finished, "--beside", "teacher@2,digits-1nfe", "--out")
    process = run(*line, "beside.png", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[0] == "beside.png"
    assert [row.split(":")[0] for row in process.stdout.splitlines()[1:]] == [
        f"2 pictures by {finished} at 1 NFE",
        "2 pictures by zoo",
        "2 pictures by digits-1nfe at 1 NFE",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["beside.png"]
    answer = json.loads(run(*line, "folder", "--json", cwd=tmp_path).stdout)
    assert (answer["path"], len(answer["rows"])) == ("folder/beside.png", 3)
    process = run(*line, "x", "--no-grid", cwd=tmp_path)
    assert process.returncode == 2
    assert "leave out --no-grid" in process.stderr


def test_json_is_for_programs(finished: Path, tmp_path: Path) -> None:
    process = run("sample", "1", "--model", finished, "--nfe", 2, "--temperature", "auto", "--json", cwd=tmp_path)
    answer = json.loads(process.stdout)
    assert answer["sampling"]["nfe"] == 2
    assert answer["warnings"]
    assert "trained for 1 NFE" in process.stderr
    again = run(
        "distill", "--preset", "digits-1nfe", "--steps", 2, *SETTINGS, "--out", finished, "--json", cwd=tmp_path
    )
    assert json.loads(again.stdout)["interrupted"] is False
    plan = run("distill", "--preset", "digits-1nfe", "--plan", "--json", cwd=tmp_path)
    assert json.loads(plan.stdout)["trainable_parameters"] > 1_000_000
    listed = json.loads(run("presets", "list", "--json", cwd=tmp_path).stdout)
    assert {row["name"] for row in listed} >= {"digits-1nfe", "dit-1nfe"}
    shown = json.loads(run("presets", "show", "digits-1nfe", "--json", cwd=tmp_path).stdout)
    assert shown["policy"]["num_components"] == 8


def test_benchmark_prints_one_table_and_writes_json(finished: Path, tmp_path: Path) -> None:
    options = ["--samples", 80, "--teacher-steps", "1,2", "--json", "scores.json"]
    process = run("benchmark", "--metric", "fid", "--metric", "accuracy", "--model", finished, *options, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "not Inception" in process.stdout
    assert len(json.loads((tmp_path / "scores.json").read_text())["rows"]) == 3


def test_convert_there_and_back_is_verified(finished: Path, tmp_path: Path) -> None:
    there = run("convert", finished, "released", "--to", "lakonlab", "--verify", cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert "largest difference" in there.stdout
    back = run("convert", "released", "mine", "--to", "native", "--verify", "--json", cwd=tmp_path)
    assert json.loads(back.stdout)["max_difference"] == 0
    refused = run("convert", finished, "released", "--to", "lakonlab", cwd=tmp_path)
    assert refused.returncode == 1


def test_presets_show_is_toml_that_can_be_used(tmp_path: Path) -> None:
    shown = run("presets", "show", "digits-1nfe", "--set", "training.steps=7", cwd=tmp_path)
    (tmp_path / "mine.toml").write_text(shown.stdout)
    checked = run("presets", "check", "mine.toml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    resolved = json.loads(run("presets", "show", "mine.toml", "--json", cwd=tmp_path).stdout)
    assert resolved["training"]["steps"] == 7


def test_help_has_examples_and_version_is_printed(tmp_path: Path) -> None:
    for command in (["distill"], ["sample"], ["benchmark"], ["convert"], ["presets", "list"]):
        assert "xample" in run(*command, "--help", cwd=tmp_path).stdout
    assert run("--version", cwd=tmp_path).stdout.startswith("piflow 0.")


MISTAKES = {
    "unknown preset": (["distill", "--preset", "digits-1nf"], 1, "Did you mean digits-1nfe"),
    "misspelt key": (["distill", "-p", "digits-1nfe", "--set", "training.stepz=1"], 1, "training.stepz: unknown key"),
    "out of range": (["distill", "-p", "digits-1nfe", "--steps", "0"], 1, "training.steps: greater than or equal to 1"),
    "not TOML": (["presets", "check", "bad.toml"], 1, "is not TOML"),
    "no such file": (["presets", "check", "none.toml"], 1, "no preset file"),
    "teacher missing": (["distill", "-p", "digits-1nfe", "--teacher", "/no/such/teacher"], 1, "does not exist"),
    "other family": (["distill", "-p", "digits-1nfe", "--teacher", "unet"], 1, "another family"),
    "hub without network": (["distill", "-p", "digits-1nfe", "--teacher", "some/model"], 1, "hf download some/model"),
    "class out of range": (["sample", "12", "--model", "digits-1nfe"], 1, "classes 0 to 9"),
    "no such class": (["sample", "thre", "--model", "digits-1nfe"], 1, "Did you mean three"),
    "empty prompt": (["sample", ""], 1, "prompt is empty"),
    "no prompt": (["sample"], 2, "PROMPT"),
    "bad temperature": (["sample", "1", "--temperature", "hot"], 2, "neither a number nor auto"),
    "bad nfe": (["sample", "1", "--nfe", "0"], 1, "nfe"),
    "unknown student": (["sample", "1", "--model", "digits-9nfe"], 1, "unknown student"),
    "student on the hub": (["sample", "1", "--model", "some/student"], 1, "hf download some/student"),
    "no CUDA": (["sample", "1", "--device", "cuda:7"], 1, "CUDA"),
    "no such device": (["sample", "1", "--device", "tpux"], 1, "unknown device"),
    "unknown metric": (["benchmark", "--metric", "fidd"], 1, "Did you mean fid"),
    "no metric": (["benchmark"], 2, "--metric"),
    "bad list": (["benchmark", "--metric", "fid", "--nfe", "1,x"], 2, "no list of whole numbers"),
    "reference missing": (["benchmark", "--metric", "fid", "--reference", "none.npz"], 1, "none.npz"),
    "unknown format": (["convert", "digits-1nfe", "out", "--to", "onnx"], 1, "onnx"),
    "output not writable": (["sample", "1", "--out", "/proc/pictures"], 1, "cannot write to /proc"),
    "run not writable": (["distill", "-p", "digits-1nfe", "--out", "/proc/run"], 1, "cannot write to /proc"),
    "no such command": (["distil"], 2, "No such command"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_gets_one_message_and_changes_nothing(name: str, tmp_path: Path) -> None:
    arguments, code, message = MISTAKES[name]
    (tmp_path / "bad.toml").write_text("steps = = 3")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    before = sorted(tmp_path.rglob("*"))
    process = run(*arguments, cwd=tmp_path)
    assert process.returncode == code, process.stderr
    assert message in " ".join(process.stderr.replace("│", " ").split())
    assert "Traceback" not in process.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_bugs_are_reported_without_a_traceback_unless_asked(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['piflow', 'presets', 'list']\n"
        "import piflow_cli.io.presets as files\n"
        "files.preset_paths = lambda: 1 / 0\n"
        "from piflow_cli.cli.app import main; main()"
    )
    plain, loud = (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **extra}
        )
        for extra in ({}, {"PIFLOW_DEBUG": "1"})
    )
    assert plain.returncode == 1
    assert "this is a bug in piflow: ZeroDivisionError" in plain.stderr
    assert "Traceback" not in plain.stderr
    assert "Traceback" in loud.stderr
