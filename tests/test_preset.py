"""Presets: every shipped one loads, and every way to get one wrong is named with its full key path."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.errors import PresetError
from piflow_cli.io import presets as preset_files
from piflow_cli.io.presets import preset_paths
from piflow_cli.io.texts.toml_text import toml_value
from piflow_cli.preset import Preset, load_preset, parse_preset, read_preset_table


@pytest.mark.parametrize("name", sorted(preset_paths()))
def test_shipped_presets_load_and_say_where_they_come_from(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert preset.summary
    assert preset.source
    assert preset.expected
    assert preset.needs
    assert preset_paths()[name].read_text().startswith("# ")
    assert Preset.model_validate_json(preset.model_dump_json()) == preset


def test_published_recipes_have_the_published_numbers() -> None:
    one, fm, two, dx = (load_preset(name) for name in ("dit-1nfe", "dit-1nfe-fm", "dit-2nfe", "dit-1nfe-dx"))
    guidance = [(p.teacher.guidance_scale, p.teacher.guidance_interval) for p in (one, fm, two)]
    assert guidance == [(3.2, (0, 0.7)), (2.7, (0, 0.6)), (2.8, (0, 0.7))]
    assert [p.teacher.timestep_scale for p in (one, fm)] == [1, 1000]
    assert [p.training.steps for p in (one, fm, two)] == [140_000, 140_000, 24_000]
    for p in (one, fm, two):
        assert (p.policy.num_components, p.policy.dropout) == (32, 0.05)
        assert (p.objective.num_intermediates, p.objective.window_substeps, p.objective.loss_scale) == (2, 0, 3.0)
        assert (p.optimizer.learning_rate, p.training.batch_size, p.optimizer.betas) == (5e-5, 4096, (0.9, 0.95))
        assert (p.sampling.shift, p.sampling.final_step_scale, p.sampling.total_substeps) == (1.0, 1.0, 128)
    assert [p.sampling.nfe for p in (one, fm, two)] == [1, 1, 2]
    assert (dx.policy.num_points, dx.objective.window_substeps, dx.policy.segment_size) == (10, 10, 1.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepz=3", "training.stepz: unknown key. Did you mean steps?"),
        ("training.steps=0", r"training.steps: greater than or equal to 1 \(got 0\)"),
        ("policy.num_componets=3", "policy.num_componets: unknown key. Did you mean num_components?"),
        ("policy.dropout=1.5", r"policy.dropout: less than 1 \(got 1.5\)"),
        ("policy.type=gmflwo", "policy.type: unknown policy 'gmflwo'. Did you mean gmflow?"),
        ("policy=3", "policy.type: missing; one of gmflow, dx"),
        ("teacher={type='dit'}", "teacher.source: missing"),
        ("sampling.temperature=hot", r"sampling.temperature.*\(got 'hot'\)"),
        ("sampling.nfe=x", r"sampling.nfe: a valid integer.*\(got 'x'\)"),
        ("optimiser.x=3", "optimiser: unknown key. Did you mean optimizer?"),
        ("zzz=3", "zzz: unknown key. Known: name, summary"),
        ("training=3", "training: .*"),
        ("training.mixed_precision=fp8", "training.mixed_precision: 'auto', 'no', 'bf16' or 'fp16'"),
        ("data.type=imges", "data.type: unknown data 'imges'. Did you mean images?"),
        ("training.steps", r"--set takes key.path=value"),
        ("name.x.y=3", "name is a value, not a table"),
        ("training.micro_batch_size=7", r"training.micro_batch_size: divides .* such as 4.*\(got 7\)"),
        (
            "objective.window_substeps=128",
            r"objective.window_substeps: less than \d+: the longest segment.*\(got 128\)",
        ),
        ("sampling.total_substeps=1", r"objective.num_intermediates: at most 1: .*\(got 2\)"),
        ("a..b=3", r"--set takes key.path=value"),
        ("sampling.temperature=-3", r"sampling.temperature: a number from 0 to 1, or auto \(got -3\)"),
        ("sampling.temperature=nan", r"sampling.temperature: a number from 0 to 1, or auto \(got nan\)"),
        ("sampling.h=nan", r"sampling.h: greater than or equal to 0 \(got nan\)"),
        ("sampling.shift=inf", r"sampling.shift: a finite number \(got inf\)"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate: a finite number"),
        ("optimizer.betas=[0.9, nan]", "optimizer.betas.1: a finite number"),
        ("optimizer.betas=[0.9, 1.0]", r"optimizer.betas.1: less than 1 \(got 1.0\)"),
        ("optimizer.betas=0.9,0.95", r"optimizer.betas: a valid tuple .*need quotes.*'optimizer.betas=\[1, 2\]'"),
        ("training.trackers=[tensorboard]", r"--set: \[tensorboard\] is no value in TOML.*Quote strings"),
        ('summary="a', "is no value in TOML"),
        ("training.seed=18446744073709551616", "more than 63 bits"),
        ("training.steps=" + "9" * 5000, "is no value in TOML"),
        ("training.steps=" + "9" * 50, "more than 63 bits"),
        ("training.steps=1\nx=2", "training.steps: a valid integer"),
        ("policy.dropout=" + "[" * 5000, "is no value in TOML"),
        ("teacher.guidance_interval=[0.7, 0.2]", r"teacher.guidance_interval: from the lower .* such as \[0.2, 0.7\]"),
        ("teacher.guidance_interval=[0, 1.5]", r"teacher.guidance_interval.1: less than or equal to 1 \(got 1.5\)"),
    ],
    ids=lambda text: text[:40],
)
def test_each_problem_is_named(override: str, message: str) -> None:
    with pytest.raises(PresetError, match=message):
        load_preset("digits-1nfe", [override])


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(PresetError) as error:
        load_preset("digits-1nfe", ["policy.dropout=2", "data.type=x", "teacher.guidance_scale=-1"])
    assert all(key in str(error.value) for key in ("policy.dropout", "data.type", "teacher.guidance_scale"))


def test_dx_takes_its_segment_and_shift_from_sampling() -> None:
    changed = ["policy={type='dx'}", "sampling.nfe=4", "sampling.final_step_scale=0.5", "sampling.shift=3.2"]
    preset = load_preset("digits-1nfe", changed)
    assert preset.policy.segment_size == pytest.approx(1 / 3.5)
    assert preset.policy.shift == 3.2
    with pytest.raises(PresetError, match=r"trained on segments of 0\.5"):
        load_preset("digits-1nfe", ["policy={type='dx', segment_size=0.5}", "sampling.nfe=1"])
    with pytest.raises(PresetError, match=r"trained with shift 2\.0"):
        load_preset("digits-1nfe", ["policy={type='dx', shift=2.0}"])
    with pytest.raises(PresetError, match=r"sampling\.nfe"):
        load_preset("digits-1nfe", ["policy={type='dx'}", "sampling.nfe=0"])


def test_names_files_and_toml_errors(tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="Did you mean digits-1nfe"):
        load_preset("digits-1nf")
    with pytest.raises(PresetError, match="there is no preset file"):
        load_preset(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(PresetError, match=r"bad\.toml is not TOML"):
        load_preset(tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PresetError, match="is not TOML"):
        load_preset(tmp_path / "binary.toml")
    copy = tmp_path / "mine.toml"
    copy.write_text(preset_paths()["digits-1nfe"].read_text())
    assert load_preset(copy).name == "mine"
    assert read_preset_table(copy)["name"] == "mine"


def test_infinity_is_allowed_where_it_means_something() -> None:
    preset = load_preset("digits-1nfe", ["sampling.h=inf"])
    assert preset.sampling.h == float("inf")
    assert Preset.model_validate_json(preset.model_dump_json()) == preset


def test_every_number_of_every_setting_is_finite() -> None:
    def keys(model: type[BaseModel]) -> list[str]:
        return [key for key, field in model.model_fields.items() if "float" in str(field.annotation)]

    classes = {type(part) for part in vars(load_preset("flux-4nfe")).values() if isinstance(part, BaseModel)}
    classes |= {type(part) for part in vars(load_preset("dit-1nfe-dx")).values() if isinstance(part, BaseModel)}
    checked = 0
    for model in classes:
        for key in keys(model):
            if (model, key) == (SamplingSettings, "h"):
                continue
            pair = "tuple" in str(model.model_fields[key].annotation)
            for value in (float("nan"), float("inf")):
                with pytest.raises(ValidationError) as error:
                    model.model_validate({key: [0.1, value] if pair else value})
                assert any(item["loc"][0] == key for item in error.value.errors()), (model, key, value)
                checked += 1
    assert checked > 30


def test_values_and_settings_are_frozen() -> None:
    preset = load_preset("digits-1nfe", ["training.seed=7", "sampling.temperature=auto", "sampling.nfe=4"])
    assert preset.training.seed == 7
    assert preset.sampling.resolved_temperature() == pytest.approx(0.3)
    assert load_preset("digits-1nfe").sampling.resolved_temperature() == 1.0
    with pytest.raises(ValidationError):
        preset.training.steps = 3
    assert parse_preset(preset.model_dump(mode="json")) == preset
    assert parse_preset({**preset.model_dump(mode="json"), "policy": preset.policy}) == preset


def test_installed_package_finds_presets_inside_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "site" / "piflow_cli"
    (package / "_presets").mkdir(parents=True)
    (package / "_presets" / "mine.toml").write_text("x = 1")
    monkeypatch.setattr(preset_files, "__file__", str(package / "io/presets.py"))
    assert list(preset_paths()) == ["mine"]
    (package / "_presets" / "mine.toml").unlink()
    (package / "_presets").rmdir()
    assert preset_paths() == {}


def test_a_warm_up_beyond_the_run_is_doubted() -> None:
    assert load_preset("digits-1nfe").doubts() == []
    (doubt,) = load_preset("digits-1nfe", ["training.steps=5", "optimizer.warmup_steps=5"]).doubts()
    assert "optimizer.warmup_steps 5" in doubt
    assert "training.steps 5" in doubt


def test_a_window_as_long_as_the_shortest_segment_is_doubted() -> None:
    """The published window of 3 on a quarter of the usual substeps: longer segments still have room for it."""
    (doubt,) = load_preset("flux-4nfe", ["sampling.total_substeps=16"]).doubts()
    assert "objective.window_substeps 3" in doubt
    assert load_preset("flux-4nfe").doubts() == []


def test_another_source_takes_with_it_what_was_said_of_the_former_one(tmp_path: Path) -> None:
    said = ("prediction", "timestep_scale", "vae", "architecture")
    folder = load_preset("dit-1nfe", ["teacher.source=my/folder"]).teacher
    assert [getattr(folder, key) for key in said] == [None] * 4
    assert (folder.guidance_scale, folder.guidance_interval) == (3.2, (0.0, 0.7))
    file = load_preset("dit-1nfe", ["teacher.source=elsewhere/repa.pth"]).teacher
    assert [getattr(file, key) for key in said] == ["flow", 1.0, "stabilityai/sd-vae-ft-ema", "DiT-XL/2"]
    kept = load_preset("dit-1nfe", ["teacher.source=my/folder", "teacher.prediction=epsilon"]).teacher
    assert kept.prediction == "epsilon"
    (tmp_path / "mine.toml").write_text(
        'extends = "dit-1nfe"\n[teacher]\nsource = "my/folder"\ntimestep_scale = 1000.0\n'
    )
    mine = load_preset(tmp_path / "mine.toml").teacher
    assert [getattr(mine, key) for key in said] == [None, 1000.0, None, None]


def test_prompts_of_a_validation_are_texts_or_tables_and_stay_as_they_were_written() -> None:
    written = '["a cat", {prompt="make it red", references="cat.png"}, {prompt="both", references=["a.png", "b.png"]}]'
    preset = load_preset("flux2-klein-4nfe", [f"validation.prompts={written}"])
    assert [(item.prompt, item.references) for item in preset.validation.prompts] == [
        ("a cat", ()),
        ("make it red", ("cat.png",)),
        ("both", ("a.png", "b.png")),
    ]
    kept = preset.model_dump(mode="json")["validation"]["prompts"]
    assert kept[:2] == ["a cat", {"prompt": "make it red", "references": ["cat.png"]}]
    assert Preset.model_validate_json(preset.model_dump_json()) == preset
    again = load_preset("flux2-klein-4nfe", [f"validation.prompts={toml_value(preset.validation.prompts)}"])
    assert again == preset


def test_tables_of_prompts_may_have_tables_of_their_own_in_a_file(tmp_path: Path) -> None:
    lines = ['extends = "flux2-klein-4nfe"', "[[validation.prompts]]", 'prompt = "a cat"']
    lines += ["[[validation.prompts]]", 'prompt = "make it red"', 'references = "cat.png"']
    (tmp_path / "edits.toml").write_text("\n".join(lines))
    listed = load_preset(tmp_path / "edits.toml").validation.prompts
    assert [(item.prompt, item.references) for item in listed] == [("a cat", ()), ("make it red", ("cat.png",))]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("[3]", "validation.prompts.0: a text, or a table such as"),
        ("['a', {prompt='b', reference='c'}]", "validation.prompts.1.reference: unknown key. Did you mean references?"),
        ("[{references='c'}]", "validation.prompts.0.prompt: missing"),
        ("[{prompt='b', references=[3]}]", "validation.prompts.0.references.0: a valid string (got 3)"),
        ("a cat", "validation.prompts: a valid tuple (got 'a cat')"),
    ],
)
def test_prompts_of_a_validation_that_are_none_are_named(written: str, words: str) -> None:
    with pytest.raises(PresetError) as refused:
        load_preset("flux2-klein-4nfe", [f"validation.prompts={written}"])
    assert words in str(refused.value)


def test_unknown_keys_of_tables_that_may_be_left_out_are_matched_with_their_own() -> None:
    with pytest.raises(PresetError, match=r"adapter\.ranks: unknown key\. Did you mean rank\?"):
        load_preset("flux-4nfe", ["adapter.ranks=3"])
