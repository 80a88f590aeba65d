"""Every family of text-to-image teachers, from distillation to reloading, on a small pipeline of random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import assert_same, stop_at
from safetensors.torch import load_file, save_file
from tiny_models import EDITING, TEACHERS, type_of
from tiny_runs import SMALL_TEXT

from piflow_cli import load_pipeline
from piflow_cli.core.sampling import sample_student
from piflow_cli.engine.convert import convert
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.embeddings import cache_embeddings
from piflow_cli.engine.plan.plan import plan
from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.open import open_student
from piflow_cli.engine.sample.sample import SampleResult
from piflow_cli.engine.students.load import load_student
from piflow_cli.errors import DataError
from piflow_cli.io.presets import preset_headers
from piflow_cli.io.sheets.videos import strip_size
from piflow_cli.preset import Preset, load_preset

PROMPTS = ("a red cat", "blue dog on the house", "the cat", "a photo of a house")
PIPELINES = [name for name in TEACHERS if name != "dit" and name not in EDITING]
FAMILIES = [name for name in PIPELINES if name == type_of(name)]


def published(family: str) -> str:
    """A preset of a family, with pictures, of 4 evaluations."""
    names = [h.name for h in preset_headers() if h.family == type_of(family) and h.name.endswith("-4nfe")]
    assert names, f"there is no preset of a {family} teacher"
    return next((name for name in names if name == f"{family}-4nfe"), names[-1])


def tiny(family: str, folder: Path, *overrides: str, images: bool = False) -> Preset:
    """The recipe of a family's preset at the size of a random pipeline."""
    settings = TEACHERS[family](folder / "teacher")
    kept = {"source", "width", "height", "frames", "max_sequence_length"}
    changes = settings.model_dump(include=kept) | {"offload_encoders": False, "guidance_scale": 2.0}
    if images and "frames" in changes:
        changes["frames"] = 1
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    data = (
        f"type='captioned', path='{pictures(folder)}'" if images else f"type='prompts', path='{folder / 'prompts.txt'}'"
    )
    table = [f"teacher.{key}={json.dumps(value)}" for key, value in changes.items()]
    return load_preset(published(family), [*table, *SMALL_TEXT, "training.steps=3", f"data={{{data}}}", *overrides])


def pictures(folder: Path) -> Path:
    """Pictures of noise with captions."""
    place = folder / "pictures"
    place.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    for i, prompt in enumerate(PROMPTS):
        Image.fromarray(draw.integers(0, 255, (80, 70, 3), dtype=np.uint8)).save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(prompt)
    return place


@pytest.mark.parametrize("family", FAMILIES)
def test_its_presets_are_planned(family: str) -> None:
    for header in preset_headers():
        if header.family == family and not header.name.startswith("emoji"):
            planned = plan(load_preset(header.name), gpus=(1, 8))
            assert planned.facts.frozen > 1e9, header.name
            assert planned.memory_bytes("one GPU", 1) > planned.memory_bytes("FSDP2", 8) > 1e9, header.name


@pytest.mark.parametrize(
    ("family", "images"),
    [
        *(pytest.param(name, False, id=f"{name}-data-free") for name in FAMILIES),
        *(pytest.param(name, True, id=f"{name}-pictures") for name in FAMILIES),
        *(pytest.param(name, False, id=name, marks=pytest.mark.slow) for name in PIPELINES if name not in FAMILIES),
    ],
)
def test_distil_resume_sample_convert_and_reload(tmp_path: Path, family: str, images: bool) -> None:
    changes = ("training.gradient_checkpointing=true", "training.preview_every=3", "training.preview_images=1")
    preset = tiny(family, tmp_path, *changes, images=images)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert distill(preset, out=whole, device="cpu").step == 3
    assert distill(preset, out=parts, device="cpu", on_event=stop_at(2)).interrupted
    assert distill(preset, out=parts, device="cpu").step == 3
    weights = [load_file(run / "student" / "student.safetensors") for run in (whole, parts)]
    assert_same(*weights)

    def draw(folder: Path) -> SampleResult:
        return sample(["a red cat", "blue dog"], model=open_student(str(folder), device="cpu", dtype="float32"))

    drawn = draw(whole)
    size, frames = (preset.teacher.width, preset.teacher.height), preset.teacher.num_frames
    assert [image.size for image in drawn.images] == [strip_size(size, frames)] * 2
    assert [len(d.video.frames) if d.video else 1 for d in drawn.drawn] == [frames] * 2
    for target in ("native", "lakonlab", "merged"):
        result = convert(whole, tmp_path / target, to=target, verify=True)
        assert result.proof == ("outputs" if target != "native" else result.proof)
        assert result.max_difference is None or result.max_difference < (1e-4 if target == "merged" else 1e-9)
        torch.testing.assert_close(draw(tmp_path / target).latents, drawn.latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", PIPELINES)
def test_its_students_are_pipelines_that_are_called_as_the_base_is(tmp_path: Path, family: str) -> None:
    preset = tiny(family, tmp_path)
    distill(preset, out=tmp_path / "run", device="cpu")
    loaded = load_student(str(tmp_path / "run"))
    space, condition = loaded.space, loaded.space.encode_prompts(["a red cat", "blue dog"])
    noise = torch.randn((2, *space.latent_shape), generator=torch.Generator().manual_seed(1))
    expected = space.base_result(
        sample_student(loaded.network, loaded.card.policy, noise, condition, settings=loaded.card.sampling)
    )
    pipe = load_pipeline(tmp_path / "run")
    pipe.set_progress_bar_config(disable=True)
    given = drawn(pipe(prompt=["a red cat", "blue dog"], latents=noise, output_type="latent"))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
    embedded = space.base_arguments(condition)
    torch.testing.assert_close(
        drawn(pipe(**embedded, latents=noise, output_type="latent")), given, rtol=1e-5, atol=1e-5
    )
    pictures = drawn(pipe(prompt=["a red cat", "blue dog"], output_type="pt"))
    *counts, _, height, width = torch.stack(list(pictures)).shape
    assert (width, height) == (preset.teacher.width, preset.teacher.height)
    assert counts == ([2] if preset.teacher.num_frames == 1 else [2, preset.teacher.num_frames])

    seen = []

    def note(
        _pipe: object, i: int, _timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        seen.append((i, sorted(tensors)))
        return tensors

    pipe(prompt="a red cat", callback_on_step_end=note, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    assert seen == [(i, ["latents", "prompt_embeds"]) for i in range(4)]
    pipe.save_pretrained(tmp_path / "saved")
    again = load_pipeline(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(again(**embedded, latents=noise, output_type="latent")), given)


def drawn(output: object) -> torch.Tensor:
    """Pictures (B, 3, H, W) or videos (B, F, 3, H, W), or latents, that a pipeline returned."""
    return output.frames if hasattr(output, "frames") else output.images


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_embeddings_are_those_that_are_encoded(tmp_path: Path, family: str) -> None:
    cache = (f"data.cache='{tmp_path / 'cache'}'", "data.cache_storage='bf16'")
    preset = tiny(family, tmp_path, *cache)
    assert cache_embeddings(preset, device="cpu").num_prompts == len(PROMPTS)
    cached, direct = tmp_path / "cached", tmp_path / "direct"
    distill(preset, out=cached, device="cpu")
    distill(tiny(family, tmp_path), out=direct, device="cpu")
    weights = [load_file(run / "student" / "student.safetensors") for run in (cached, direct)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-2, atol=2e-3)


def test_latents_of_videos_teach_videos(tmp_path: Path) -> None:
    preset = tiny("wan", tmp_path)
    space = preset.teacher.load().space
    videos = torch.rand((4, 3, 5, 64, 48), generator=torch.Generator().manual_seed(0))
    latents = space.encode_images(videos, generator=torch.Generator().manual_seed(1))
    assert latents.shape[1:] == space.latent_shape == (4, 2, 8, 6)
    shards = tmp_path / "shards"
    shards.mkdir()
    save_file({"latents": latents}, shards / "videos.safetensors", metadata={"prompts": json.dumps(PROMPTS)})
    data = f"data={{type='captioned', path='{shards}'}}"
    assert distill(tiny("wan", tmp_path, data), out=tmp_path / "run", device="cpu").step == 3
    drawn = sample(["a red cat"], model=open_student(str(tmp_path / "run"), device="cpu", dtype="float32"))
    assert drawn.latents.shape == (1, 4, 2, 8, 6)
    other = tiny("wan", tmp_path, data, "teacher.frames=9")
    with pytest.raises(DataError, match=r"this teacher at its size needs \(N, 4, 3, 8, 6\)"):
        distill(other, out=tmp_path / "other", device="cpu")
