"""Preset files as tables: one over another, and changes typed on the command line."""

from pathlib import Path

import pytest

from piflow_cli.errors import PresetError
from piflow_cli.io.presets import UNSET, Whole, merge_tables, parse_overrides
from piflow_cli.io.texts.toml_text import toml_lines
from piflow_cli.preset import load_preset

KNOWN = {("policy", "dx"): {"type", "num_points", "eps"}, ("policy", "gmflow"): {"type", "num_components", "eps"}}


def merge(base: dict, changes: dict) -> dict:
    return merge_tables(base, changes, known_keys=lambda kind, name: KNOWN.get((kind, name), set()))


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_tables_change_key_by_key_and_values_whole() -> None:
    base = {"a": 1, "t": {"x": 1, "y": [1, 2]}}
    assert merge(base, {"t": {"y": [3]}, "b": 2}) == {"a": 1, "b": 2, "t": {"x": 1, "y": [3]}}
    assert merge(base, {"a": UNSET, "t": {"x": UNSET}}) == {"t": {"y": [1, 2]}}
    assert merge(base, {"t": Whole({"z": 1})}) == {"a": 1, "t": {"z": 1}}
    assert base == {"a": 1, "t": {"x": 1, "y": [1, 2]}}


def test_another_type_drops_what_it_does_not_have() -> None:
    base = {"policy": {"type": "gmflow", "num_components": 8, "eps": 1e-6}}
    changed = merge(base, {"policy": {"type": "dx", "num_points": 5}})
    assert changed == {"policy": {"type": "dx", "eps": 1e-6, "num_points": 5}}
    assert merge(base, {"policy": {"type": "gmflow"}}) == base


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("k=3", 3),
        ("k=1e-4", 1e-4),
        ("k=true", True),
        ("k=word", "word"),
        ("k=two words, with = and #", "two words, with = and #"),
        ("k=", UNSET),
        ("k=  ", UNSET),
        ('k=""', ""),
        ("k=['a', 'b']", ["a", "b"]),
    ],
)
def test_values_are_tomls_and_bare_words_are_strings(override: str, value: object) -> None:
    assert parse_overrides([override]) == {"k": value}


@pytest.mark.parametrize("override", ["k=[a, b]", "k={a=b}", 'k="half', "k=[1,"])
def test_half_a_value_says_how_to_quote(override: str) -> None:
    with pytest.raises(PresetError, match="Quote strings"):
        parse_overrides([override])


def test_the_last_of_a_key_wins() -> None:
    assert parse_overrides(["a.b=1", "a.b=2", "a.c=3"]) == {"a": {"b": 2, "c": 3}}
    with pytest.raises(PresetError, match="a is a value, not a table"):
        parse_overrides(["a=1", "a.b=2"])


def test_a_file_builds_on_a_named_preset(tmp_path: Path) -> None:
    mine = write(tmp_path, "mine.toml", 'extends = "flux-4nfe"\n[training]\nsteps = 10\n')
    preset, parent = load_preset(mine), load_preset("flux-4nfe")
    assert (preset.name, preset.summary, preset.expected) == ("mine", "after flux-4nfe", "")
    assert preset.source == parent.source
    assert preset.training == parent.training.model_copy(update={"steps": 10})
    assert preset.teacher == parent.teacher
    assert (preset.made_from, parent.made_from) == ("flux-4nfe", "")


def test_a_file_builds_on_another_beside_it_and_policies_change_whole(tmp_path: Path) -> None:
    write(tmp_path, "base.toml", 'extends = "flux-4nfe"\n[training]\nsteps = 10\n')
    mine = write(tmp_path, "mine.toml", 'extends = "base.toml"\n[policy]\ntype = "dx"\nnum_points = 5\n')
    preset = load_preset(mine)
    assert (preset.policy.type, preset.policy.num_points, preset.training.steps) == ("dx", 5, 10)
    assert preset.made_from == "flux-4nfe"
    assert load_preset("flux-8nfe").made_from == ""
    shown = write(tmp_path, "shown.toml", "\n".join(toml_lines(preset)))
    assert load_preset(shown) == preset


def test_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", 'extends = "b.toml"\n')
    write(tmp_path, "b.toml", 'extends = "a.toml"\n')
    with pytest.raises(PresetError, match="goes in a circle"):
        load_preset(tmp_path / "a.toml")
    with pytest.raises(PresetError, match="no-such"):
        load_preset(write(tmp_path, "c.toml", 'extends = "no-such"\n'))
    with pytest.raises(PresetError, match="extends is 3"):
        load_preset(write(tmp_path, "d.toml", "extends = 3\n"))


def test_set_unsets_and_changes_types() -> None:
    assert load_preset("flux-4nfe", ["training.micro_batch_size="]).training.micro_batch_size is None
    changed = load_preset("flux-4nfe", ["policy.type=dx"])
    assert (changed.policy.num_points, changed.policy.segment_size) == (10, pytest.approx(1 / 3.5))
    assert load_preset("digits-1nfe", ["data.type=noise"]).data.type == "noise"
    with pytest.raises(PresetError, match=r"training\.steps: missing"):
        load_preset("flux-4nfe", ["training.steps="])
