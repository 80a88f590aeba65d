"""Saving a pipeline and loading it again: the student's folder, the base it notes, and the base it may hold."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import dx, save_teacher, stored_student, tiny_vae
from tiny_pipelines import (
    FAMILIES,
    STYLES,
    aligned,
    base_folder,
    latents,
    merged_pipeline,
    pipeline,
    student_folder,
    style,
)
from torch import Tensor

from piflow_cli import load_pipeline
from piflow_cli.engine.pipelines import pipeline_of
from piflow_cli.engine.pipelines.dit import PiDiTPipeline
from piflow_cli.engine.pipelines.flux import PiFluxPipeline
from piflow_cli.engine.pipelines.qwen_image import PiQwenImagePipeline
from piflow_cli.engine.students.load import load_student, read_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import ModelError, StorageError

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on", "ignore:Already found a `peft_config` attribute")

CLASSES = {"flux": PiFluxPipeline, "qwen": PiQwenImagePipeline}
CASES = [("flux", "gm"), ("flux", "dx"), ("qwen", "gm"), ("qwen", "dx")]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_saved_student_is_the_same_bitwise(family: str, kind: str, tmp_path: Path) -> None:
    pipe = pipeline(family, kind)
    plain, folder = latents(pipe, family), tmp_path / "student"
    pipe.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == {
        "checksums.json",
        "student.json",
        "student.safetensors",
        "pipeline.json",
    }
    again = aligned(CLASSES[family].from_pretrained(folder))  # the base is noted
    assert again.student.card.teacher == pipe.student.card.teacher
    assert torch.equal(latents(again, family), plain)
    assert torch.equal(latents(aligned(load_pipeline(str(folder))), family), plain)
    (first, _), (second, _) = read_student(student_folder(family, kind), recipe=None), read_student(folder)
    assert first.weights.keys() == second.weights.keys()
    assert all(torch.equal(first.weights[name], tensor) for name, tensor in second.weights.items())
    student = load_student(str(folder), base=str(base_folder(family)))
    assert torch.equal(latents(aligned(pipeline_of(student)), family), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_base_needs_nothing_else(family: str, tmp_path: Path) -> None:
    pipe = pipeline(family)
    plain = latents(pipe, family)
    pipe.load_lora_weights(style(pipe, [n for names in STYLES[family].values() for n in names], seed=0))
    pipe.load_lora_weights(style(pipe, ["norm_out.student.linear"], seed=1))
    pipe.save_pretrained(tmp_path / "whole", save_base=True)
    moved = tmp_path / "elsewhere" / "student"
    shutil.move(tmp_path / "whole", moved)
    again = aligned(load_pipeline(moved))
    assert again.student.space.settings.source == str(moved / "base")
    assert torch.equal(latents(again, family), plain)
    name = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(base_folder(family) / name), load_file(moved / "base" / name)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    picture = again(
        "a red cat", height=64, width=48, generator=torch.Generator().manual_seed(0), output_type="pt"
    ).images
    pipe.unload_lora_weights()
    expected = pipe(
        "a red cat", height=64, width=48, generator=torch.Generator().manual_seed(0), output_type="pt"
    ).images
    assert torch.equal(picture, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_students_with_all_weights_save_their_base_with_its_transformer(family: str, tmp_path: Path) -> None:
    pipe = merged_pipeline(family, tmp_path)
    plain = latents(pipe, family)
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=0))
    pipe.save_pretrained(tmp_path / "whole", save_base=True)
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "whole" / "base" / weights).read_bytes() == (base_folder(family) / weights).read_bytes()
    assert torch.equal(latents(aligned(load_pipeline(tmp_path / "whole")), family), plain)


def test_noted_base_that_is_gone_is_not_used(tmp_path: Path) -> None:
    base = shutil.copytree(base_folder("flux"), tmp_path / "base")
    load_pipeline(student_folder("flux"), base=base).save_pretrained(tmp_path / "student")
    assert json.loads((tmp_path / "student" / "pipeline.json").read_text()) == {"base": str(base)}
    shutil.rmtree(base)
    with pytest.raises(ModelError, match=r"black-forest-labs/FLUX\.1-dev"):
        load_pipeline(tmp_path / "student")
    pipe = load_pipeline(tmp_path / "student", base=base_folder("flux"))
    assert pipe.student.space.settings.source == str(base_folder("flux"))


def test_only_students_are_replaced(tmp_path: Path) -> None:
    pipe = pipeline("flux")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="holds something else than a student"):
        pipe.save_pretrained(tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    pipe.save_pretrained(tmp_path / "empty", save_base=True)
    pipe.save_pretrained(tmp_path / "empty", save_base=True)
    again = load_pipeline(tmp_path / "empty")
    with pytest.raises(StorageError, match="holds the base of this pipeline"):
        again.save_pretrained(tmp_path / "empty")
    again.save_pretrained(tmp_path / "empty", save_base=True)
    plain = latents(pipe, "flux")
    assert torch.equal(latents(aligned(load_pipeline(tmp_path / "empty")), "flux"), plain)


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    pipe = pipeline("flux")
    pipe.load_lora_weights(style(pipe, STYLES["flux"]["shared"], seed=0), adapter_name="style")
    pipe.fuse_lora()
    with pytest.raises(ValueError, match="style is fused into the weights and is no part of the student: unfuse_lora"):
        pipe.save_pretrained(tmp_path / "student")
    pipe.unload_lora_weights()
    with pytest.raises(ValueError, match="or load the pipeline again where it was unloaded since"):
        PiFluxPipeline(**pipe.components).save_pretrained(tmp_path / "student")
    assert not (tmp_path / "student").exists()


def dit_latents(pipe: PiDiTPipeline) -> Tensor:
    return pipe([1, 2], generator=torch.Generator().manual_seed(0), output_type="latent").images


@pytest.mark.parametrize("vae", [None, tiny_vae()], ids=["pixels", "vae"])
def test_class_students_are_saved_with_their_autoencoder(vae: torch.nn.Module | None, tmp_path: Path) -> None:
    save_student(stored_student(dx()), tmp_path / "one", vae=vae)
    pipe = aligned(load_pipeline(tmp_path / "one"))
    pipe.save_pretrained(tmp_path / "two", save_base=True)
    again = aligned(PiDiTPipeline.from_pretrained(tmp_path / "two"))
    assert torch.equal(dit_latents(pipe), dit_latents(again))
    assert (tmp_path / "two" / "vae").is_dir() == (again.vae is not None) == (vae is not None)
    if vae is not None:
        pictures = [p([1], generator=torch.Generator().manual_seed(0), output_type="pt").images for p in (pipe, again)]
        assert torch.equal(*pictures)


def test_base_of_another_architecture_is_refused(tmp_path: Path) -> None:
    base = shutil.copytree(base_folder("flux"), tmp_path / "base")
    config = json.loads((base / "transformer" / "config.json").read_text())
    (base / "transformer" / "config.json").write_text(json.dumps(config | {"guidance_embeds": False}))
    with pytest.raises(ModelError, match=r"do not fit their config: unknown time_text_embed\.guidance_embedder"):
        load_pipeline(student_folder("flux"), base=base)
    with pytest.raises(ModelError, match="no student in any known format"):
        load_pipeline(save_teacher(tmp_path / "teacher"))
