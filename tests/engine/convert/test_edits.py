"""Students that edit pictures: the authors' layout there and back, and no file for ComfyUI."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from text_students import text_student
from tiny_models import gmflow
from tiny_qwen_edit import tiny_qwen_edit

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.convert import convert
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import ModelError


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of Qwen-Image-Edit."""
    place = tmp_path_factory.mktemp("edits")
    sampling = SamplingSettings(nfe=2, total_substeps=8)
    save_student(text_student(tiny_qwen_edit(place / "base"), gmflow(), sampling=sampling), place / "student")
    return place / "student"


def test_a_student_that_edits_comes_back_from_the_authors_layout(student: Path, tmp_path: Path) -> None:
    convert(str(student), tmp_path / "released", to="lakonlab")
    config = json.loads((tmp_path / "released" / "config.json").read_text())
    assert config["_class_name"] == "GMQwenImageTransformer2DModel", "the class of Qwen-Image's students"
    convert(str(tmp_path / "released"), tmp_path / "back", to="native")
    before, after = (load_file(folder / "student.safetensors") for folder in (student, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    cards = [json.loads((folder / "student.json").read_text()) for folder in (student, tmp_path / "back")]
    assert cards[0] == cards[1]
    assert cards[1]["teacher"]["type"] == "qwen_image_edit"


def test_comfyui_is_refused_with_the_reason(student: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"of the types flux, qwen_image, flux2, and on none of type qwen_image_edit"):
        convert(str(student), tmp_path / "edit.safetensors", to="comfyui")
    assert not any(tmp_path.iterdir())
