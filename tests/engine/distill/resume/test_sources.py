"""What a run is trained on and by is known by digests: another file is named and refused, a copied one is the same."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_teacher, tiny_flux

from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.resume.sources import digests_of_sources, digests_of_teacher
from piflow_cli.errors import StorageError
from piflow_cli.preset import Preset, load_preset
from piflow_cli.teachers.dit.family import DiT


def recipe(base: Path, prompts: Path, *, steps: int = 1) -> Preset:
    """A tiny text-to-image run without pictures."""
    return load_preset(
        "flux-4nfe-datafree",
        [
            f"teacher.source={base}",
            "teacher.width=48",
            "teacher.height=64",
            "teacher.max_sequence_length=12",
            f"data={{type='prompts', path='{prompts}'}}",
            "adapter.rank=4",
            "training.mixed_precision=no",
            "training.teacher_dtype=float32",
            "training.batch_size=1",
            "training.micro_batch_size=1",
            "training.checkpoint_every=1",
            "training.preview_every=0",
            "sampling.total_substeps=16",
            "optimizer.name=adamw",
            f"training.steps={steps}",
        ],
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_flux().source, tmp_path / "base"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("a red cat\nthe house\n")
    return tmp_path / "prompts.txt"


def nudge(path: Path) -> None:
    """The smallest change to one of the weights."""
    weights = load_file(path)
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name].view(-1)[0] = torch.nextafter(weights[name].view(-1)[0], torch.tensor(9.0))
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name", ["transformer", "text_encoder", "text_encoder_2", "vae", "tokenizer", "tokenizer_2", "scheduler"]
)
def test_every_part_of_a_teacher_has_a_digest_by_its_name(base: Path, name: str) -> None:
    before = digests_of_teacher(tiny_flux(source=str(base)))
    files = sorted(path for path in (base / name).iterdir() if path.suffix in (".safetensors", ".json", ".txt"))
    assert files
    changed = files[-1]
    if changed.suffix == ".safetensors":
        nudge(changed)
    else:
        changed.write_text(changed.read_text() + "\n")
    after = digests_of_teacher(tiny_flux(source=str(base)))
    different = [key for key in before if before[key] != after[key]]
    assert different == [f"teacher.source ({name}/{changed.name})"]


def test_a_copy_with_other_times_is_the_same_and_hidden_files_are_nothing(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    (copy / ".cache").mkdir()
    (copy / ".cache" / "x.json").write_text("{}")
    assert digests_of_teacher(tiny_flux(source=str(copy))) == digests_of_teacher(tiny_flux(source=str(base)))


def test_an_autoencoder_from_elsewhere_counts(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher", vae=True)
    shutil.move(folder / "vae", tmp_path / "vae")
    family = DiT(source=str(folder), vae=str(tmp_path / "vae"))
    before = digests_of_teacher(family)
    nudge(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    after = digests_of_teacher(family)
    assert [key for key in before if before[key] != after[key]] == ["teacher.vae (diffusion_pytorch_model.safetensors)"]


def test_data_are_told_apart_by_content_names_and_number(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    seen = set()

    def look() -> None:
        found = digests_of_sources(recipe(base, folder))["data.path"]
        assert found not in seen
        seen.add(found)

    (folder / "a.txt").write_text("a cat\n")
    look()
    (folder / "a.txt").write_text("a hat\n")
    look()
    (folder / "b.txt").write_text("a dog\n")
    look()
    (folder / "b.txt").rename(folder / "c.txt")
    look()


def test_pipes_and_links_in_a_circle_end_nothing(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "a.txt").write_text("a cat\n")
    before = digests_of_sources(recipe(base, folder))
    os.mkfifo(folder / "pipe.txt")
    for number in range(3):
        (folder / f"again-{number}").symlink_to(folder)
    (folder / "nothing.txt").symlink_to("nowhere")
    assert digests_of_sources(recipe(base, folder)) == before


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "vae", "transformer"])
def test_a_run_does_not_go_on_by_other_weights(base: Path, prompts: Path, tmp_path: Path, part: str) -> None:
    run = tmp_path / "run"
    distill(recipe(base, prompts), out=run, device="cpu")
    (file,) = (base / part).glob("*.safetensors")
    kept = file.read_bytes()
    nudge(file)
    with pytest.raises(StorageError, match=rf"has changed since \(teacher\.source \({part}/{file.name}\): "):
        distill(recipe(base, prompts, steps=2), out=run, device="cpu")
    file.write_bytes(kept)
    assert distill(recipe(base, prompts, steps=2), out=run, device="cpu").step == 2


def test_a_run_does_not_go_on_with_other_prompts(base: Path, prompts: Path, tmp_path: Path) -> None:
    distill(recipe(base, prompts), out=tmp_path / "run", device="cpu")
    prompts.write_text("a blue cat\nthe house\n")
    with pytest.raises(StorageError, match=r"has changed since \(data\.path: 1 file, \w+ there, 1 file, \w+ now\)"):
        distill(recipe(base, prompts, steps=2), out=tmp_path / "run", device="cpu")
