"""Students that edit: from rows that name pictures to a student that is sampled, converted and loaded as a pipeline."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import assert_same, stop_at
from safetensors.torch import load_file
from tiny_edits import KINDS, ROWS, recipe, rows
from tiny_models import tiny_flux
from tiny_qwen_edit import tiny_qwen_edit
from tiny_runs import SMALL_TEXT, environment

from piflow_cli.data.embeddings.cache import open_cache
from piflow_cli.engine.convert import convert
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.embeddings import cache_embeddings
from piflow_cli.engine.plan.checks import check_at_once
from piflow_cli.engine.processes.sharded import check_sharding
from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.open import open_student
from piflow_cli.errors import DataError, PresetError

EDITS = Path(__file__).parents[2] / "edits_on_cpu.py"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("images", [False, True], ids=["data-free", "pictures"])
def test_distil_resume_sample_convert_and_reload(tmp_path: Path, kind: str, images: bool) -> None:
    preset = recipe(kind, tmp_path, "training.preview_every=3", "training.preview_images=2", images=images)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert distill(preset, out=whole, device="cpu").step == 3
    assert (whole / "previews" / "step-0000003.png").is_file()
    assert distill(preset, out=parts, device="cpu", on_event=stop_at(2)).interrupted
    assert distill(preset, out=parts, device="cpu").step == 3
    assert_same(*(load_file(run / "student" / "student.safetensors") for run in (whole, parts)))

    def draw(folder: Path, name: str = "cat.png") -> torch.Tensor:
        student = open_student(str(folder), device="cpu", dtype="float32")
        asked = {"references": [tmp_path / "edits" / name], "width": 48, "height": 64}
        return sample(["a red cat"], model=student, **asked).latents

    drawn = draw(whole)
    assert not torch.equal(draw(whole, "hat.png"), drawn)
    for target in ("native", "merged"):
        convert(whole, tmp_path / target, to=target)
        torch.testing.assert_close(draw(tmp_path / target), drawn, rtol=1e-4, atol=1e-4)
    convert(whole, tmp_path / "released", to="lakonlab")
    convert(tmp_path / "released", tmp_path / "back", to="native", base=preset.teacher.source)
    torch.testing.assert_close(draw(tmp_path / "back"), drawn, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_two_processes_edit_as_one_does(tmp_path: Path) -> None:
    """Qwen-Image-Edit, whose prompts are encoded with their pictures, copied and sharded: the losses of one process."""
    own = ("training.micro_batch_size=1", "teacher.offload_encoders=false", "teacher.guidance_scale=2.0")
    size = [f"teacher.{key}={value}" for key, value in {"width": 48, "height": 64}.items()]
    tiny_qwen_edit(tmp_path / "teacher")
    paths = {"teacher.source": tmp_path / "teacher", "data.path": rows(tmp_path) / "edits.jsonl"}
    data = [f"{key}={value}" for key, value in paths.items()] + [f"data.cache={tmp_path / 'cache'}"]
    sets = [part for change in (*SMALL_TEXT, *own, *size, *data) for part in ("--set", change)]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]

    def losses(name: str, *launcher: str) -> list[float]:
        words = ["distill", "--preset", "qwen-edit-4nfe-datafree", "--device", "cpu", "--steps", "2", *sets]
        strategy = ["--strategy", name] if launcher else []
        line = [sys.executable, *launcher, str(EDITS), *words, "--out", str(tmp_path / name), *strategy]
        ended = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr[-3000:]
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    alone = losses("alone")
    assert len(alone) == 2
    for strategy in ("ddp", "fsdp2"):
        assert losses(strategy, *launch) == pytest.approx(alone, rel=1e-5), strategy


def test_cached_pictures_are_those_that_are_encoded(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "cache"
    preset = recipe(kind, tmp_path, f"data.cache='{folder}'", "data.cache_storage='bf16'", "training.preview_every=3")
    assert cache_embeddings(preset, device="cpu").num_prompts == len(ROWS)
    space = preset.teacher.load_space()
    encoded = space.conditions([*preset.data.open(space).prompts])
    for row, cached in zip(encoded.rows(), open_cache(folder).rows(range(3)), strict=True):
        assert cached.references.sizes == row.references.sizes
        torch.testing.assert_close(cached.references.tokens, row.references.tokens, rtol=1e-3, atol=1e-3)
        if row.references.negative is not None:
            negative = cached.references.negative.embeds
            torch.testing.assert_close(negative, row.references.negative.embeds, rtol=1e-2, atol=1e-3)
    cached, direct = tmp_path / "cached", tmp_path / "direct"
    distill(preset, out=cached, device="cpu")
    distill(recipe(kind, tmp_path), out=direct, device="cpu")
    weights = [load_file(run / "student" / "student.safetensors") for run in (cached, direct)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-2, atol=2e-3)


def test_a_cache_belongs_to_its_pictures_and_to_what_encoded_them(tmp_path: Path, kind: str) -> None:
    cached = (f"data.cache='{tmp_path / 'cache'}'",)
    preset = recipe(kind, tmp_path, *cached)
    cache_embeddings(preset, device="cpu")
    with pytest.raises(DataError, match="or other pictures that they are about"):
        cache_embeddings(recipe(kind, tmp_path, *cached, "data.reference_size='64x64'"), device="cpu")
    weights = tmp_path / kind / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(DataError, match="caches something else: text encoder"):
        cache_embeddings(preset, device="cpu")
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    Image.new("RGB", (96, 64), "white").save(tmp_path / "edits" / "cat.png")
    with pytest.raises(DataError, match="or other pictures that they are about"):
        cache_embeddings(preset, device="cpu")


def test_what_does_not_go_with_pictures_is_refused_at_once(tmp_path: Path) -> None:
    preset = recipe("flux2", tmp_path)
    check_at_once(preset)
    with pytest.raises(PresetError, match=r"set training\.micro_batch_size=1, or use --strategy ddp"):
        check_sharding(preset, sharded=True)
    other = {"teacher": tiny_flux()}
    with pytest.raises(PresetError, match=r"data\.references: .* makes pictures of prompts alone; leave the key out"):
        check_at_once(preset.model_copy(update=other))
    bare = preset.data.model_copy(update={"references": None})
    with pytest.raises(
        PresetError, match=r"edits pictures: name the field of the rows that says which in data\.references"
    ):
        check_at_once(recipe("qwen-edit", tmp_path).model_copy(update={"data": bare}))
    (tmp_path / "edits" / "cat.png").unlink()
    with pytest.raises(DataError, match=r"the reference picture .*cat\.png of the prompt 'a red cat' is not there"):
        check_at_once(preset)
    latents = recipe("flux2", tmp_path, f"data.latents='{tmp_path / 'latents'}'", images=True)
    space = latents.teacher.load_space(encoders=False)
    with pytest.raises(DataError, match=r"data\.latents keep no reference pictures"):
        latents.data.open(space)
