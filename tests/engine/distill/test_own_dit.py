"""The whole way of a DiT that diffusers itself made: distil, resume, sample, benchmark, convert; its folder decides."""

import json
from pathlib import Path

import pytest
import torch
from cli_runner import run
from PIL import Image
from runs import assert_same, stop_at
from safetensors.torch import load_file
from tiny_detector import save_detector
from tiny_models import save_stock_teacher

from piflow_cli.engine.benchmark import benchmark
from piflow_cli.engine.convert.convert import convert
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.plan.plan import plan
from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.open import open_teacher
from piflow_cli.engine.students.load import load_student
from piflow_cli.errors import DataError
from piflow_cli.preset import Preset, load_preset

NAMES = ["tench, Tinca tinca", "golden retriever", *"cdefghij"]
TINY = (
    "training.steps=4",
    "training.batch_size=4",
    "training.micro_batch_size=2",
    "training.mixed_precision=no",
    "training.teacher_dtype=float32",
    "training.checkpoint_every=2",
    "training.preview_every=4",
    "training.preview_images=2",
    "optimizer.warmup_steps=2",
    "policy.num_components=2",
    "sampling.total_substeps=16",
)


def recipe(folder: Path, *more: str) -> Preset:
    """The published recipe for another teacher."""
    return load_preset("dit-1nfe", [f"teacher.source={folder}", "data.type=noise", *TINY, *more])


def make_folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(params=["flow", "ddim"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return save_stock_teacher(tmp_path / "teacher", scheduler=request.param, labels=NAMES)[0]


def test_a_stock_pipeline_goes_the_whole_way(folder: Path, tmp_path: Path) -> None:
    preset, out = recipe(folder), tmp_path / "run"
    teacher = preset.teacher.load()
    scheduler = json.loads((folder / "model_index.json").read_text())["scheduler"][1]
    assert (teacher.backbone.diffusion is None) == (scheduler == "FlowMatchEulerDiscreteScheduler")
    assert teacher.space.size_px == (16, 16)
    facts = plan(preset, gpus=(1,))
    assert facts.facts.frozen == sum(p.numel() for p in teacher.module.parameters())
    assert [part.parameters for part in facts.parts] == [sum(p.numel() for p in teacher.space.vae.parameters())]

    distill(preset, out=tmp_path / "whole", device="cpu")
    assert distill(preset, out=out, device="cpu", on_event=stop_at(2)).interrupted
    result = distill(preset, out=out, device="cpu")
    assert result.examples == ("tench", "c", "e", "g")
    student = load_file(out / "student" / "student.safetensors")
    assert_same(student, load_file(tmp_path / "whole" / "student" / "student.safetensors"))
    first, second = (student[f"transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_1.weight"] for i in (0, 1))
    assert not torch.equal(first, second)

    drawn = sample(["golden retriever", "Golden_Retriever", "1"], model=str(out), device="cpu")
    assert drawn.images[0].size == (16, 16)
    assert len({image.tobytes() for image in drawn.images}) == 1
    by_teacher = sample(["golden retriever"], model=open_teacher(str(out), device="cpu"), steps=4)
    assert by_teacher.images[0].size == (16, 16)

    for i, image in enumerate(sample(NAMES, model=open_teacher(str(out), device="cpu"), steps=4).images):
        image.save(make_folder(tmp_path / "reference") / f"{i}.png")
    detector = save_detector(tmp_path / "colours.pt")
    options = {"reference": str(tmp_path / "reference"), "detector": detector, "samples": 20, "device": "cpu"}
    rows = benchmark(metrics=["fid"], models=[str(out)], teacher_steps=(1, 4), **options).rows
    assert [(row.method, row.nfe) for row in rows] == [("gmflow", 1), ("euler", 1), ("euler", 4)]

    for to in ("native", "lakonlab"):
        converted = convert(out, tmp_path / to, to=to, verify=True)
        assert (converted.proof, converted.max_difference) == ("outputs", 0.0)
        assert any("embedding of its own" in warning for warning in converted.warnings) == (to == "lakonlab")
        again = load_student(str(tmp_path / to))
        assert again.network.module.config.num_layers == 3


def test_class_folders_name_the_classes_of_a_teacher_without_names(tmp_path: Path) -> None:
    folder, _ = save_stock_teacher(tmp_path / "teacher")
    animals = ["cat", "dog", "golden retriever"]
    for i, name in enumerate(animals):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (80 * i, 0, 0)).save(tmp_path / "data" / name / "0.png")
    preset = recipe(folder, "data.type=images", f"data.path={tmp_path / 'data'}")
    events: list[DistillEvent] = []
    distill(preset, out=tmp_path / "run", device="cpu", on_event=events.append)
    warnings = [event.message for event in events if event.kind == "warning"]
    assert any("3 class folders, and this teacher has 10 classes" in warning for warning in warnings)
    sample(["golden retriever", "2"], model=str(tmp_path / "run"), device="cpu")
    sample(["golden retriever"], model=open_teacher(str(tmp_path / "run"), device="cpu"), steps=2)
    with pytest.raises(DataError, match="Did you mean cat"):
        sample(["cta"], model=str(tmp_path / "run"), device="cpu")


def test_the_command_line_takes_the_folder_for_the_presets_teacher(folder: Path, tmp_path: Path) -> None:
    changes = [part for setting in (*TINY, "data.type=noise") for part in ("--set", setting)]
    ended = run("distill", "--preset", "dit-1nfe", "--teacher", folder, *changes, "--plan", "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["teacher_parameters"] < 50_000
    ended = run("distill", "--preset", "dit-1nfe", "--teacher", folder, *changes, "--out", "run", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "try it   piflow sample tench" in ended.stdout
    ended = run("sample", "golden retriever", "--model", "run", "--out", "dog.png", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "dog.png").is_file()


def test_all_that_a_folder_leaves_open_is_asked_for_at_once(tmp_path: Path) -> None:
    folder, _ = save_stock_teacher(tmp_path / "teacher")
    bare = folder / "transformer"
    ended = run("distill", "--preset", "dit-1nfe", "--teacher", bare, "--set", "data.type=noise", cwd=tmp_path)
    assert ended.returncode == 1
    for key in ("teacher.prediction", "teacher.timestep_scale", "teacher.vae"):
        assert key in ended.stderr
