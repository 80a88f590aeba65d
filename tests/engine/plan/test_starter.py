"""`piflow presets new`: what it writes is valid, says what the teacher needs, extends its source and can be planned."""

import tomllib
from pathlib import Path

import pytest
from cli_runner import run
from tiny_models import DIGIT_NAMES, PARITY, save_stock_teacher, save_teacher

from piflow_cli.engine.plan.plan import plan
from piflow_cli.engine.plan.starter import starter
from piflow_cli.errors import ModelError, PresetError
from piflow_cli.preset import Preset, load_preset

FLUX, QWEN = (str(PARITY / f"e2e_{name}" / "pipeline") for name in ("flux", "qwen"))


def written(folder: Path, source: str, teacher: str | Path, *settings: str) -> tuple[str, Preset]:
    """A file as it is written, and what it says when it is read."""
    made = starter(source, name="mine", teacher=str(teacher), settings=settings)
    (folder / "mine.toml").write_text(made.text)
    read = load_preset(folder / "mine.toml")
    assert read.model_copy(update={"summary": "", "expected": ""}) == made.preset.model_copy(
        update={"summary": "", "expected": ""}
    )
    assert tomllib.loads(made.text)["extends"] == source
    plan(read, gpus=(1,))
    return made.text, read


def test_sizes_length_guidance_and_targets_are_the_pipelines(tmp_path: Path) -> None:
    text, preset = written(tmp_path, "flux-4nfe", FLUX)
    teacher = preset.teacher
    assert (teacher.width, teacher.height, teacher.max_sequence_length) == (64, 64, 24)
    assert (teacher.guidance_scale, preset.adapter.rank) == (3.5, 8)
    assert "embedded by its network" in text
    assert "# targets: 10 layers: ff.net.0.proj, ff.net.2, " in text
    space = teacher.load_space(encoders=False)
    assert space.latent_shape == (4, 8, 8)
    assert preset.objective == load_preset("flux-4nfe").objective


def test_a_network_that_embeds_no_guidance_gets_none(tmp_path: Path) -> None:
    text, preset = written(tmp_path, "flux-4nfe", "zoo:emoji")
    assert preset.teacher.guidance_scale == 1.0
    assert "above 1 takes two passes" in text
    assert preset.adapter.rank == 64
    text, preset = written(tmp_path, "qwen-4nfe", QWEN, "teacher.width=48", "teacher.height=64")
    assert (preset.teacher.width, preset.teacher.guidance_scale) == (48, 4.0)
    assert "by two passes an evaluation" in text


@pytest.mark.parametrize(("scheduler", "says"), [("flow", "flow, by its"), ("ddim", "epsilon, by its")])
def test_a_dit_says_its_prediction_autoencoder_and_latents(tmp_path: Path, scheduler: str, says: str) -> None:
    folder, _ = save_stock_teacher(tmp_path / "teacher", scheduler=scheduler, labels=DIGIT_NAMES)
    text, preset = written(tmp_path, "dit-1nfe", folder)
    for part in (
        f"# prediction: {says} scheduler/",
        "# vae: its own",
        "latents are (4, 8, 8), labels 0 to 9, named 'zero'",
    ):
        assert part in text
    assert (preset.teacher.prediction, preset.teacher.vae, preset.teacher.architecture) == (None, None, None)
    assert preset.teacher.load().space.size_px == (16, 16)


def test_a_dit_on_pixels_needs_no_autoencoder(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher", in_channels=1, out_channels=1)
    text, _ = written(tmp_path, "dit-1nfe", folder, "data.type=noise")
    assert "# vae: none: the network works on pixels" in text


def test_what_a_teacher_leaves_open_has_to_be_set_and_is_then_written(tmp_path: Path) -> None:
    bare = save_stock_teacher(tmp_path / "teacher")[0] / "transformer"
    with pytest.raises(ModelError, match=r"(?s)teacher\.prediction.*teacher\.timestep_scale.*teacher\.vae"):
        starter("dit-1nfe", name="mine", teacher=str(bare))
    settings = ("teacher.prediction=flow", "teacher.timestep_scale=1000", f"teacher.vae={bare.parent / 'vae'}")
    _, preset = written(tmp_path, "dit-1nfe", bare, *settings)
    assert preset.teacher.load().backbone.timestep_scale == 1000


def test_other_families_and_keys_that_cannot_be_unset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="teacher of another family"):
        starter("flux-4nfe", name="mine", teacher=QWEN)
    with pytest.raises(PresetError, match="a file cannot unset"):
        starter("flux-4nfe", name="mine", teacher=FLUX, settings=["data.cache="])


def test_the_command_writes_a_file_once(tmp_path: Path) -> None:
    made = run("presets", "new", "mine.toml", "--from", "flux-4nfe", "--teacher", FLUX, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert run("presets", "check", "mine.toml", cwd=tmp_path).returncode == 0
    planned = run("distill", "--preset", "mine.toml", "--plan", cwd=tmp_path)
    assert "Plan of mine: flux-4nfe for pipeline" in planned.stdout
    again = run("presets", "new", "mine.toml", "--from", "flux-8nfe", cwd=tmp_path)
    assert (again.returncode, "is not written over" in again.stderr) == (1, True)
    assert run("presets", "new", "mine.toml", "--from", "flux-8nfe", "--force", cwd=tmp_path).returncode == 0
    assert 'extends = "flux-8nfe"' in (tmp_path / "mine.toml").read_text()
