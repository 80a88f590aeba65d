"""A published student: its README says what it is and how it is used, and nothing else is uploaded."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from cli_runner import run
from PIL import Image
from tiny_models import PARITY

from piflow_cli.engine.students.find import find_student
from piflow_cli.engine.students.load import read_student
from piflow_cli.engine.students.model_card import model_card
from piflow_cli.teachers.qwen_image_edit.family import QwenImageEdit

SCORES = {
    "rows": [{"model": "mine", "method": "gmflow", "nfe": 4, "h": 0.0, "scores": {"fid": 1.97234, "accuracy": 0.8}}],
    "titles": {"fid": "FID*", "accuracy": "accuracy*"},
    "samples": 500,
    "detector": "emoji-cnn",
    "reference": "emoji",
    "seed": 0,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What looks like a run folder with a student, previews and a benchmark."""
    source = find_student("digits-1nfe")
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    for file in source.iterdir():
        (run_folder / file.name).write_bytes(file.read_bytes())
    (run_folder / "previews").mkdir()
    for step, grey in ((1, 10), (2, 200)):
        Image.new("RGB", (8, 8), (grey,) * 3).save(run_folder / "previews" / f"step-{step:07d}.png")
    (run_folder / "benchmark.json").write_text(json.dumps(SCORES))
    return run_folder


def test_the_readme_stands_beside_the_files_with_picture_and_scores(folder: Path) -> None:
    process = run("convert", folder, "out", "--to", "native", "--readme", "--license", "mit", cwd=folder.parent)
    assert process.returncode == 0, process.stderr
    out = folder.parent / "out"
    assert Image.open(out / "sheet.png").getpixel((0, 0)) == (200, 200, 200)  # the newest
    text = (out / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in text
    assert "![pictures by the student](sheet.png)" in text
    assert "| mine | gmflow | 4 | 0 | 1.972 | 0.8 |" in text
    assert "samples 500, detector emoji-cnn, reference emoji, seed 0" in text
    assert "pipeline_tag" not in text  # classes are no text
    assert run("convert", out, "--verify", cwd=folder.parent).returncode == 0


def test_a_text_student_names_its_base_and_comfyui() -> None:
    stored, _ = read_student(PARITY / "e2e_flux" / "adapter_gmflux")
    card = stored.card.model_copy(
        update={"teacher": stored.card.teacher.model_copy(update={"source": "black-forest-labs/FLUX.1-dev"})}
    )
    text = model_card(card, place="me/mine", written_as="comfyui")
    assert "base_model: black-forest-labs/FLUX.1-dev\nbase_model_relation: adapter\nlicense: other" in text
    assert "pipeline_tag: text-to-image" in text
    assert 'load_pipeline("me/mine")' in text
    assert "ComfyUI-piFlow" in text
    assert "whose licence holds for it too" in text


def test_a_student_that_edits_is_shown_with_a_picture() -> None:
    stored, _ = read_student(PARITY / "e2e_qwen" / "adapter_gmqwen")
    teacher = QwenImageEdit(source="Qwen/Qwen-Image-Edit-2509", width=64, height=64)
    text = model_card(stored.card.model_copy(update={"teacher": teacher}), place="me/mine", written_as="native")
    assert "pipeline_tag: image-to-image" in text
    assert '$ piflow sample "make it red" --image picture.png --model me/mine' in text
    assert "from PIL import Image\nfrom piflow_cli import load_pipeline\n" in text
    assert 'pipe(prompt="make it red", image=Image.open("picture.png")).images[0].save("edited.png")' in text


class Hub:
    """Keeps what is uploaded."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None

    def create_repo(self, repo_id: str, *, private: bool | None, **_: Any) -> SimpleNamespace:
        self.private = private
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).rglob("*") if path.is_file()}
        return f"https://huggingface.co/{repo_id}/commit/1"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub()
    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(huggingface_hub.HfApi, name, lambda _, *a, name=name, **k: getattr(found, name)(*a, **k))
    monkeypatch.setattr(huggingface_hub.HfApi, "file_exists", lambda *_, **__: False)
    return found


def test_what_is_uploaded_is_the_student_and_nothing_else(folder: Path, hub: Hub) -> None:
    process = run("convert", folder, "--push-to-hub", "me/mine", "--private", cwd=folder.parent)
    assert process.returncode == 0, process.stderr
    assert "uploaded: https://huggingface.co/me/mine/commit/1" in process.stdout
    assert set(hub.files) == {"README.md", "sheet.png", "student.json", "student.safetensors", "checksums.json"}
    assert hub.private is True
    assert b"--model me/mine" in hub.files["README.md"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["run"]  # nothing stays here


def test_one_file_is_uploaded_with_its_readme(hub: Hub, tmp_path: Path) -> None:
    process = run("convert", "emoji-4nfe", "--push-to-hub", "me/emoji", "--to", "comfyui", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert set(hub.files) == {"README.md", "emoji.safetensors"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out", "--to", "native", "--private"], "goes with --push-to-hub"),
        (["out.safetensors", "--to", "comfyui", "--readme"], "comfyui is one file"),
        (["out", "--to", "native", "--readme", "--scores", "run/student.json"], "is not what piflow benchmark --json"),
        (["out", "--to", "native", "--readme", "--sheet", "run/student.json"], "student.json"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(folder: Path, arguments: list[str], message: str) -> None:
    process = run("convert", "run", *arguments, cwd=folder.parent)
    assert process.returncode in (1, 2)
    assert message in " ".join(process.stderr.split())
    assert sorted(path.name for path in folder.parent.iterdir()) == ["run"]
