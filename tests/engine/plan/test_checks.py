"""What a run would fail on is said at once: key, value, what is allowed, and what would happen otherwise."""

from pathlib import Path

import accelerate.tracking
import pytest
from cli_runner import run
from tiny_models import PARITY, save_teacher

from piflow_cli.engine.plan.checks import check_at_once, check_sizes, check_trackers
from piflow_cli.engine.plan.plan import plan
from piflow_cli.errors import MissingExtraError, ModelError, PresetError
from piflow_cli.preset import load_preset

FLUX = f"teacher.source={PARITY / 'e2e_flux' / 'pipeline'}"
"""Its autoencoder halves sides three times."""


@pytest.mark.parametrize("source", [FLUX, "teacher.source=nobody/has-it"])
def test_sizes_that_the_autoencoder_cannot_do_are_refused_by_plan_and_check(source: str) -> None:
    preset = load_preset("flux-4nfe", [source, "teacher.width=1000"])
    with pytest.raises(
        PresetError, match=r"teacher\.width, teacher\.height 1000x1024: width 1000 .* nearest one is 992"
    ):
        check_sizes(preset)
    with pytest.raises(PresetError, match="have no latents"):
        plan(preset)
    buckets = load_preset("flux-4nfe", [source, "data.resolutions=['1024x1024', '1360x770']"])
    with pytest.raises(PresetError, match=r"data\.resolutions 1360x770: height 770 is not a positive multiple of 16"):
        check_sizes(buckets)
    check_sizes(load_preset("flux-4nfe", [source]))


@pytest.mark.parametrize(
    ("preset", "data", "message"),
    [
        (
            "emoji-4nfe",
            "noise",
            "takes prompts, and this data has the other kind; set another, such as prom",
        ),
        ("emoji-4nfe", "digits", "data.type: the teacher takes prompts"),
        ("digits-1nfe", "prompts", "data.type: the teacher takes class labels, .* such as noise"),
    ],
)
def test_data_of_another_kind_than_the_teachers_is_refused(preset: str, data: str, message: str) -> None:
    settings = [f"data.type={data}", *(["data.path=zoo:emoji"] if data == "prompts" else [])]
    with pytest.raises(PresetError, match=message):
        plan(load_preset(preset, settings))


def test_the_step_is_that_of_the_sources_own_autoencoder(tmp_path: Path) -> None:
    made = run("presets", "new", "odd.toml", "--from", "flux-4nfe", "--set", "teacher.height=72", cwd=tmp_path)
    assert (made.returncode, "height 72 is not a positive multiple of 16" in made.stderr) == (1, True)
    (tmp_path / "odd.toml").write_text('extends = "flux-4nfe"\n[teacher]\nheight = 72\n')
    checked = run("presets", "check", "odd.toml", cwd=tmp_path)
    assert (checked.returncode, "the nearest one is 64" in checked.stderr) == (1, True)


def test_trackers_that_are_not_installed_or_not_known_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    here = accelerate.tracking.LoggerType("tensorboard")
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: [here])
    check_trackers(load_preset("digits-1nfe", ["training.trackers=['tensorboard']"]))
    with pytest.raises(
        MissingExtraError, match=r"wandb is not installed, and nothing .* pip install wandb.*: tensorboard"
    ):
        check_trackers(load_preset("digits-1nfe", ["training.trackers=['tensorboard', 'wandb']"]))
    with pytest.raises(PresetError, match=r"'wandbs' is no tracker of accelerate; one of aim, .*wandb"):
        check_trackers(load_preset("digits-1nfe", ["training.trackers=['wandbs']"]))


def test_a_run_with_a_tracker_that_is_missing_makes_no_folder(tmp_path: Path) -> None:
    options = ["--set", "training.trackers=['dvclive']", "--out", "run"]
    ended = run("distill", "--preset", "digits-1nfe", *options, cwd=tmp_path)
    assert (ended.returncode, "dvclive is not installed" in ended.stderr) == (1, True)
    assert not (tmp_path / "run").exists()


def test_warm_up_beyond_the_run_is_doubted() -> None:
    (doubt,) = load_preset("digits-1nfe", ["training.steps=50", "optimizer.warmup_steps=50"]).doubts()
    assert "optimizer.warmup_steps 50 is not below training.steps 50: the rate never comes to" in doubt


@pytest.mark.parametrize("shows", ["training.preview_every", "validation.every"])
def test_latents_that_nothing_decodes_are_refused_where_pictures_are_shown(tmp_path: Path, shows: str) -> None:
    source = save_teacher(tmp_path / "teacher", in_channels=4, out_channels=4)
    tables = (f"teacher={{type='dit', source='{source}'}}", "data={type='noise'}", "training.preview_every=0")
    check_at_once(load_preset("digits-1nfe", tables))
    with pytest.raises(ModelError, match=r"teacher\.vae: the folder or hub id of the autoencoder of its 4 channels"):
        check_at_once(load_preset("digits-1nfe", [*tables, f"{shows}=2"]))
