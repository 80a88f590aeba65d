"""`piflow teacher check` prints a line a thing, exits with 1 where something is wrong, and finds the family itself."""

import json
from pathlib import Path

import pytest
from cli_runner import run
from tiny_models import PARITY, save_teacher

from piflow_cli.engine.check.find import teacher_settings
from piflow_cli.errors import ModelError, PresetError


def test_every_line_is_ok_for_a_family_that_is_right(tmp_path: Path) -> None:
    result = run("teacher", "check", PARITY / "e2e_qwen" / "pipeline", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first, *lines, last = result.stdout.strip().splitlines()
    assert first.endswith("as a qwen_image teacher")
    assert last == "nothing is wrong"
    assert {line.split()[0] for line in lines} == {"ok"}


def test_json_says_the_same(tmp_path: Path) -> None:
    result = run(
        "teacher", "check", save_teacher(tmp_path / "dit", in_channels=1, out_channels=1), "--json", cwd=tmp_path
    )
    said = json.loads(result.stdout)
    assert said["passed"] is True
    assert said["family"] == "dit"
    assert {"name": "padding", "passed": None, "said": "classes are not padded"} in said["findings"]


def test_a_predicted_noise_walks_as_ddim_does(tmp_path: Path) -> None:
    source = save_teacher(tmp_path / "dit", scheduler="ddim", out_channels=8, vae=True)
    result = run("teacher", "check", str(source), "--json", cwd=tmp_path)
    findings = {item["name"]: item for item in json.loads(result.stdout)["findings"]}
    assert findings["walk"]["passed"], findings["walk"]
    assert findings["velocity"]["passed"] is None


def test_the_family_is_that_of_the_pipeline(tmp_path: Path) -> None:
    settings = teacher_settings(str(PARITY / "e2e_flux" / "pipeline"), settings=["guidance_scale=2.0"])
    assert (settings.type, settings.guidance_scale) == ("flux", 2.0)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no model_index\.json, which would say whose it is; name its family"):
        teacher_settings(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "KolorsPipeline"}')
    with pytest.raises(ModelError, match="holds a KolorsPipeline; teachers are made of DiTPipeline, FluxPipeline"):
        teacher_settings(str(tmp_path))
    with pytest.raises(PresetError, match=r"teacher\.guidance: unknown key"):
        teacher_settings(str(tmp_path), family="flux", settings=["guidance=2"])


def test_what_is_no_teacher_is_told_apart(tmp_path: Path) -> None:
    """An empty folder, a run's folder and its student's, and a lone weight file, with and without its family."""
    with pytest.raises(ModelError, match="is an empty folder; was its download cut off"):
        teacher_settings(str(tmp_path), family="sd3")
    student = tmp_path / "run" / "student"
    student.mkdir(parents=True)
    (student / "student.json").write_text('{"teacher": {"type": "sd3", "source": "models/sd35"}}')
    for folder in (student, student.parent):
        for family in (None, "sd3"):
            with pytest.raises(ModelError, match=r"is a student, .*: piflow teacher check models/sd35$"):
                teacher_settings(str(folder), family=family)
    file = tmp_path / "flux.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match=r"is one file, .*--set transformer=FILE"):
        teacher_settings(str(file))
    with pytest.raises(ModelError, match=r"the folder or hub id of a FluxPipeline, .*--set transformer=FILE"):
        teacher_settings(str(file), family="flux").load()
