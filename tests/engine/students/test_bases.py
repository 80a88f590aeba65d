"""Where a student's base is: what the card says is found from any folder, and --base takes the place of all of it."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from text_students import FOUR_STEPS, TEXT_POLICIES, text_student
from tiny_models import tiny_flux

from piflow_cli import load_pipeline
from piflow_cli.engine.distill import distill
from piflow_cli.engine.students.load import load_student, on_base
from piflow_cli.engine.students.save import anchored, save_student
from piflow_cli.formats.native import read_card
from piflow_cli.preset import load_preset
from piflow_cli.teachers.dit.family import DiT

WEIGHTS = Path("transformer") / "diffusion_pytorch_model.safetensors"
BASE = tiny_flux().source
SMALL = [
    *("teacher.max_sequence_length=12", "teacher.width=48", "teacher.height=64", "adapter.rank=2"),
    *("training.steps=1", "training.batch_size=2", "training.preview_every=0"),
    *("training.mixed_precision=no", "training.teacher_dtype=float32"),
]
"""One step on the small base."""


def student_on(folder: Path, **teacher: str) -> Path:
    """A stored student whose card says these things of its base."""
    save_student(text_student(tiny_flux(**teacher), TEXT_POLICIES["gm"], sampling=FOUR_STEPS), folder)
    return folder


def projection(folder: Path, **options: str) -> torch.Tensor:
    """A weight of the base beneath a loaded student."""
    return load_student(str(folder), **options).network.module.x_embedder.weight


def test_a_base_takes_the_place_of_all_that_the_card_says(tmp_path: Path) -> None:
    expected = projection(student_on(tmp_path / "plain"))
    for i, said in enumerate(({"transformer": "gone.safetensors"}, {"variant": "fp16"}, {"revision": "v2"})):
        folder = student_on(tmp_path / str(i), **said)
        student = load_student(str(folder), base=BASE)
        assert (student.family.transformer, student.family.variant, student.family.revision) == (None, None, None)
        assert student.family.width == 48
        assert torch.equal(student.network.module.x_embedder.weight, expected)
        assert torch.equal(load_pipeline(folder, base=BASE).transformer.x_embedder.weight, expected)


def test_what_is_asked_for_beside_a_base_stays(tmp_path: Path) -> None:
    shutil.copy(Path(BASE) / WEIGHTS, tmp_path / "own.safetensors")
    folder = student_on(tmp_path / "student", transformer="gone.safetensors", variant="fp16")
    pipe = load_pipeline(folder, base=BASE, transformer=str(tmp_path / "own.safetensors"))
    assert pipe.student.family.transformer == str(tmp_path / "own.safetensors")
    assert pipe.student.family.variant is None


def test_another_transformer_is_warned_of(tmp_path: Path) -> None:
    folder = student_on(tmp_path / "student", transformer="gone.safetensors")
    (warning,) = load_student(str(folder), base=BASE).warnings
    assert f"was trained on {BASE} with gone.safetensors and is loaded onto {BASE}" in warning


def test_a_base_of_fp16_files_is_found_and_warned_of(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "half")
    for path in list((tmp_path / "half").rglob("*.safetensors")):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    student = load_student(str(student_on(tmp_path / "student")), base=str(tmp_path / "half"))
    assert any("variant fp16 only" in warning for warning in student.warnings)


def test_a_card_finds_its_base_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(BASE, tmp_path / "base")
    shutil.copy(Path(BASE) / WEIGHTS, tmp_path / "own.safetensors")
    monkeypatch.chdir(tmp_path)
    changes = ["teacher.source=base", "teacher.transformer=own.safetensors", *SMALL]
    distill(load_preset("emoji-1nfe", changes), out="run", device="cpu")
    card = read_card(tmp_path / "run" / "student")
    assert card.teacher.source == str(tmp_path / "base")
    assert card.teacher.transformer == str(tmp_path / "own.safetensors")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(projection(tmp_path / "run"), tiny_flux().load().module.x_embedder.weight)


def test_only_paths_that_exist_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vae").mkdir()
    assert anchored(DiT(source="owner/name", vae="vae")) == DiT(source="owner/name", vae=str(tmp_path / "vae"))
    assert anchored(tiny_flux(source="zoo:emoji")).source == "zoo:emoji"
    assert on_base(DiT(source="a", revision="v1"), "b") == DiT(source="b")
    assert on_base(DiT(source="a", revision="v1"), None).revision == "v1"


def test_a_saved_pipeline_notes_the_transformer_of_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = {name: tensor + 1 for name, tensor in tiny_flux().load().module.state_dict().items()}
    save_file(weights, "own.safetensors")
    pipe = load_pipeline(student_on(tmp_path / "student"), base=BASE, transformer="own.safetensors")
    pipe.save_pretrained(tmp_path / "saved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load_pipeline(tmp_path / "saved")
    assert torch.equal(again.transformer.x_embedder.weight, weights["x_embedder.weight"])


def test_distilling_tells_of_how_its_base_was_loaded(tmp_path: Path) -> None:
    weights = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tiny_flux().load().module.state_dict().items()}
    save_file(weights, tmp_path / "cast.safetensors")
    told = []
    changes = [f"teacher.source={BASE}", f"teacher.transformer={tmp_path / 'cast.safetensors'}", *SMALL]
    distill(load_preset("emoji-1nfe", changes), out=tmp_path / "run", device="cpu", on_event=told.append)
    (warning,) = [event.message for event in told if event.kind == "warning"]
    assert "cast.safetensors holds" in warning
    assert "in float8 without scales" in warning
