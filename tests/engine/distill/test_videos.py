"""A video teacher is distilled from people's videos: encoded in every step or once, stopped and resumed, and drawn."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made_clips import NEEDS_AV, animation, container, greys
from runs import assert_same, stop_at
from safetensors.torch import load_file
from tiny_bases import tiny_wan
from tiny_runs import SMALL_TEXT, environment

from piflow_cli import load_pipeline
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.distill.latents import cache_latents
from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.open import open_student
from piflow_cli.errors import DataError
from piflow_cli.preset import Preset, load_preset

CAPTIONS = ("a red cat", "blue dog on the house", "the cat", "a photo of a house")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Four animations, and a still picture that is none."""
    root = tmp_path / "videos"
    root.mkdir()
    for i, caption in enumerate(CAPTIONS):
        kind = "GIF" if i % 2 else "WEBP"
        (root / f"{i}.{kind.lower()}").write_bytes(animation(greys(5 + 2 * i), kind=kind))
        (root / f"{i}.txt").write_text(caption)
    (root / "still.webp").write_bytes(animation(greys(1), kind="WEBP"))
    (root / "still.txt").write_text("a cat")
    return root


def changes(folder: Path, *more: str) -> list[str]:
    """What brings the published recipe to the size of a random pipeline, and onto the videos of a folder."""
    tiny_wan(folder / "base")
    teacher = ("width=48", "height=64", "frames=5", "max_sequence_length=12", "guidance_scale=2.0")
    tiny = (f"teacher.source={folder / 'base'}", *(f"teacher.{change}" for change in teacher), *SMALL_TEXT)
    data = f"data={{type='captioned', path='{folder / 'videos'}'}}"
    return [*tiny, "teacher.offload_encoders=false", "training.steps=3", data, *more]


def recipe(folder: Path, *more: str) -> Preset:
    return load_preset("wan-4nfe", changes(folder, *more))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "student.safetensors")


@pytest.mark.parametrize("cached", [False, True], ids=["in-every-step", "cached"])
def test_distil_stop_resume_sample_and_reload(tmp_path: Path, videos: Path, cached: bool) -> None:
    more = (f"data.latents='{tmp_path / 'latents'}'", f"data.cache='{tmp_path / 'cache'}'") if cached else ()
    preset = recipe(tmp_path, "training.preview_every=3", "training.preview_images=1", *more)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said: list[DistillEvent] = []
    assert distill(preset, out=whole, device="cpu", on_event=said.append).step == 3
    assert distill(preset, out=parts, device="cpu", on_event=stop_at(2)).interrupted
    assert distill(preset, out=parts, device="cpu").step == 3
    assert_same(weights(whole), weights(parts))
    words = "4 latents with prompts" if cached else "5 videos with captions"
    assert any(words in str(event) for event in said)
    drawn = sample(["a red cat"], model=open_student(str(whole), device="cpu", dtype="float32"))
    assert drawn.latents.shape == (1, 4, 2, 8, 6)
    assert len(drawn.drawn[0].video.frames) == 5
    pipe = load_pipeline(whole)
    pipe.set_progress_bar_config(disable=True)
    assert torch.stack(list(pipe(prompt="a red cat", output_type="pt").frames)).shape == (1, 5, 3, 64, 48)


def test_cached_latents_are_those_of_each_step(tmp_path: Path, videos: Path) -> None:
    """In float16, one posterior each: what was encoded once has the teacher's shape and finite values of that size."""
    preset = recipe(tmp_path, f"data.latents='{tmp_path / 'latents'}'")
    report = cache_latents(preset, device="cpu")
    assert (report.num_pictures, report.built) == (5, 1)
    assert [name.split(" (")[0] for name in report.left_out] == [str(videos / "still.webp")]
    found = load_file(tmp_path / "latents" / "latents-00000.safetensors")["latents"].float()
    space = preset.teacher.load().space
    batch = recipe(tmp_path).data.pictures(space).reader.read_rows([0, 1, 2, 3])
    pixels = torch.stack([torch.from_numpy(video) for video in batch]).movedim(-1, 1) / 255
    means = torch.stack([space.encode_images(pixels, generator=torch.Generator().manual_seed(s)) for s in range(64)])
    spread = means.std(0)
    assert ((found - means.mean(0)).abs() < 5 * spread + 1e-2).all()
    assert cache_latents(preset, device="cpu").kept == 1
    with pytest.raises(DataError, match=r"holds other latents: .*frames a second 16 there, 8 wanted"):
        cache_latents(recipe(tmp_path, f"data.latents='{tmp_path / 'latents'}'", "teacher.fps=8"), device="cpu")


@NEEDS_AV
def test_containers_teach_too(tmp_path: Path, videos: Path) -> None:
    for path in videos.iterdir():
        path.unlink()
    for name, kind in (("a.mp4", "mp4"), ("b.webm", "webm"), ("c.mov", "mov")):
        (videos / name).write_bytes(container(greys(8), kind=kind))
        (videos / name).with_suffix(".txt").write_text("the cat")
    assert distill(recipe(tmp_path), out=tmp_path / "run", device="cpu").step == 3


@pytest.mark.slow
def test_two_processes_train_as_one_on_each_others_videos(tmp_path: Path, videos: Path) -> None:
    """By the command line, with fewer previews than processes; of what one encodes the other trains."""
    keys = changes(tmp_path, "training.preview_every=3", "training.preview_images=1", "training.micro_batch_size=1")
    alone, both = tmp_path / "alone", tmp_path / "both"
    line = [sys.executable, "-m", "piflow_cli", "distill", "--preset", "wan-4nfe", "--device", "cpu"]
    line += [word for key in keys for word in ("--set", key)]
    latents = ["--set", f"data.latents={tmp_path / 'latents'}"]
    for more in (["--out", str(alone)], ["--out", str(both), "--num-processes", "2"]):
        subprocess.run([*line, *more], check=True, env=environment(), timeout=240)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(both)[name], tensor, rtol=1e-4, atol=1e-5)
    subprocess.run(
        [*line, *latents, "--cache-only", "--num-processes", "2"], check=True, env=environment(), timeout=240
    )
    assert len(load_file(tmp_path / "latents" / "latents-00000.safetensors")["latents"]) == 4
