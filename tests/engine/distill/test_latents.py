"""Pictures are encoded to latents once: the shards that class and captioned recipes train on, by several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_runner import run
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import save_stock_teacher, save_teacher, tiny_flux

from piflow_cli.data.shards import encoding
from piflow_cli.data.shards.latents import is_complete
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.distill.latents import cache_latents
from piflow_cli.engine.sample import sample
from piflow_cli.errors import DataError, PresetError
from piflow_cli.preset import Preset, load_preset

ANIMALS = ("cat", "dog", "golden retriever")
FOLDERS = {"path": "pictures", "latents": "latents", "cache": "cache"}
TINY = (
    "training.steps=2",
    "training.batch_size=4",
    "training.micro_batch_size=4",
    "training.mixed_precision=no",
    "training.teacher_dtype=float32",
    "training.preview_every=0",
    "policy.num_components=2",
    "sampling.total_substeps=16",
)


def write_classes(root: Path, *, each: int = 3) -> Path:
    for i, name in enumerate(ANIMALS):
        (root / name).mkdir(parents=True)
        for k in range(each):
            Image.new("RGB", (20, 16), (80 * i, 40 * k, 9)).save(root / name / f"{k}.png")
    return root


def dit_recipe(folder: Path, *more: str) -> Preset:
    teacher = folder / "teacher"
    if not teacher.exists():
        save_stock_teacher(teacher)
    data = ["data.type=images", f"data.path={folder / 'pictures'}", f"data.latents={folder / 'latents'}"]
    return load_preset("dit-1nfe", [f"teacher.source={teacher}", *data, *TINY, *more])


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of four pictures."""
    monkeypatch.setattr(encoding, "SHARD_SIZE", 4)


def test_class_folders_become_the_shards_that_the_published_recipe_reads(tmp_path: Path, small_shards: None) -> None:
    write_classes(tmp_path / "pictures")
    (tmp_path / "pictures" / "dog" / "broken.png").write_bytes(b"no picture")
    preset = dit_recipe(tmp_path)
    report = cache_latents(preset, device="cpu")
    assert (report.num_pictures, report.built, report.kept) == (10, 3, 0)
    assert any("broken.png" in name for name in report.left_out)
    assert any("3 class folders, and this teacher has 10 classes" in doubt for doubt in report.doubts)
    shards = [load_file(tmp_path / "latents" / f"latents-0000{i}.safetensors") for i in range(3)]
    assert torch.cat([shard["labels"] for shard in shards]).tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert shards[0]["latents"].dtype == torch.float16

    space = preset.teacher.load_space()
    pixels = torch.tensor([0, 0, 9]).view(1, 3, 1, 1).expand(1, 3, 16, 16) / 255
    posterior = space.vae.encode(pixels * 2 - 1).latent_dist
    expected = (posterior.mean - 0.25) * 0.5
    assert (shards[0]["latents"][:1].float() - expected).abs().max() < 6 * 0.5 * posterior.std.max()

    latents = load_preset(
        "dit-1nfe", [f"teacher.source={tmp_path / 'teacher'}", f"data.path={tmp_path / 'latents'}", *TINY]
    )
    distill(latents, out=tmp_path / "run", device="cpu")
    assert len(sample(["golden retriever"], model=str(tmp_path / "run"), device="cpu").images) == 1


def test_a_run_encodes_what_is_missing_and_trains_on_latents(tmp_path: Path, small_shards: None) -> None:
    write_classes(tmp_path / "pictures")
    preset = dit_recipe(tmp_path)
    assert cache_latents(preset, device="cpu").built == 3
    (tmp_path / "latents" / "latents-00001.json").unlink()
    (tmp_path / "latents" / "latents-00002.safetensors").write_bytes(b"cut off")
    assert not is_complete(tmp_path / "latents")
    events: list[DistillEvent] = []
    distill(preset, out=tmp_path / "run", device="cpu", on_event=events.append)
    assert {event.message for event in events if event.kind == "caching"} == {"pictures"}
    assert is_complete(tmp_path / "latents")
    before = (tmp_path / "latents" / "latents-00000.safetensors").stat().st_mtime_ns
    again = cache_latents(preset, device="cpu")
    assert (again.built, again.kept) == (0, 3)
    assert (tmp_path / "latents" / "latents-00000.safetensors").stat().st_mtime_ns == before


def test_a_shard_is_the_same_whoever_encodes_it(tmp_path: Path, small_shards: None) -> None:
    write_classes(tmp_path / "pictures")
    preset = dit_recipe(tmp_path)
    cache_latents(preset, device="cpu")
    first = (tmp_path / "latents" / "latents-00001.safetensors").read_bytes()
    (tmp_path / "latents" / "latents-00001.safetensors").unlink()
    assert cache_latents(preset, device="cpu").built == 1
    assert (tmp_path / "latents" / "latents-00001.safetensors").read_bytes() == first


def test_other_pictures_or_another_autoencoder_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "pictures")
    preset = dit_recipe(tmp_path)
    cache_latents(preset, device="cpu")
    file = tmp_path / "teacher" / "vae" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    save_file({name: 1.5 * tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"holds other latents: autoencoder dit-.* there, dit-.* wanted"):
        cache_latents(preset, device="cpu")
    shards = load_preset(
        "dit-1nfe", [f"teacher.source={tmp_path / 'teacher'}", f"data.path={tmp_path / 'latents'}", *TINY]
    )
    with pytest.raises(DataError, match="were encoded by another autoencoder"):
        distill(shards, out=tmp_path / "run", device="cpu")
    file.write_bytes(whole)
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "cat" / "more.png")
    with pytest.raises(DataError, match="number of pictures 9 there, 10 wanted"):
        distill(preset, out=tmp_path / "run", device="cpu")


def test_folders_of_other_files_and_presets_without_a_folder_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "pictures")
    preset = dit_recipe(tmp_path)
    (tmp_path / "latents").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "latents" / "mine.safetensors")
    with pytest.raises(DataError, match="nothing that was made here"):
        cache_latents(preset, device="cpu")
    with pytest.raises(PresetError, match=r"data\.latents names no folder"):
        cache_latents(load_preset("dit-1nfe", ["data={type='images', path='x'}"]), device="cpu")
    ended = run("distill", "--preset", "digits-1nfe", "--cache-only", cwd=tmp_path)
    assert (ended.returncode, "there is nothing to cache" in ended.stderr) == (1, True)


def test_pixels_need_no_autoencoder(tmp_path: Path) -> None:
    save_teacher(tmp_path / "teacher", in_channels=3, out_channels=3)
    write_classes(tmp_path / "pictures")
    cache_latents(dit_recipe(tmp_path), device="cpu")
    latents = load_file(tmp_path / "latents" / "latents-00000.safetensors")["latents"]
    assert latents.shape == (9, 3, 8, 8)
    assert latents[0, :, 0, 0].tolist() == pytest.approx([-1.0, -1.0, 2 * 9 / 255 - 1], abs=1e-3)


def test_captioned_pictures_keep_their_prompts_and_embeddings(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for i, caption in enumerate(("a red cat", "blue dog", "the house", "broken")):
        Image.new("RGB", (48, 64), (60 * i, 0, 0)).save(tmp_path / "pictures" / f"{i}.png")
        (tmp_path / "pictures" / f"{i}.txt").write_text(caption)
    (tmp_path / "pictures" / "3.png").write_bytes(b"no picture")
    teacher = tiny_flux()
    settings = [f"teacher.{key}={json.dumps(getattr(teacher, key))}" for key in ("source", "width", "height")]
    places = ", ".join(f"{key}='{tmp_path / name}'" for key, name in FOLDERS.items())
    data = f"data={{type='captioned', {places}}}"
    small = (
        "adapter.rank=4",
        "objective.window_substeps=1",
        "optimizer.warmup_steps=1",
        "teacher.max_sequence_length=12",
    )
    preset = load_preset("flux-4nfe", [*settings, data, *TINY, *small])
    distill(preset, out=tmp_path / "run", device="cpu")
    with safe_open(tmp_path / "latents" / "latents-00000.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["prompts"]) == ["a red cat", "blue dog", "the house"]
        assert file.get_slice("latents").get_shape() == [3, 4, 8, 6]
    assert json.loads((tmp_path / "cache" / "index.json").read_text())["num_prompts"] == 3


def test_two_processes_share_the_work_by_the_command_line(tmp_path: Path) -> None:
    write_classes(tmp_path / "pictures", each=2)
    preset = dit_recipe(tmp_path)
    line = [sys.executable, "-m", "piflow_cli", "distill", "--preset", "dit-1nfe", "--cache-only", "--device", "cpu"]
    changes = {"teacher.source": preset.teacher.source, "data.type": "images"}
    changes |= {f"data.{key}": getattr(preset.data, key) for key in ("path", "latents")}
    line += [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    ended = subprocess.run([*line, "--num-processes", "2"], capture_output=True, text=True, check=False, env=os.environ)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("6 pictures in") == 1
    assert is_complete(tmp_path / "latents")
