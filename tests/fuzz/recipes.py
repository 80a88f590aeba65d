"""Attacks on what a person types or writes: presets, `--set`, and the arguments of every command."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import typer
from typer.testing import CliRunner

from fuzz import damage, values
from fuzz.case import Case, Target
from piflow_cli.cli.app import app
from piflow_cli.engine.plan.plan import plan
from piflow_cli.errors import PiflowError
from piflow_cli.io.presets import preset_paths
from piflow_cli.preset import Preset, load_preset

LEAVES = ("digits-1nfe", "emoji-4nfe", "flux-4nfe", "dit-2nfe", "qwen-4nfe-dx")
USAGE = (PiflowError, typer.BadParameter, typer.Exit, typer.Abort)


def _copy_presets(folder: Path) -> None:
    for name in LEAVES:
        (folder / f"{name}.toml").write_bytes(preset_paths()[name].read_bytes())


def _attack_preset(rng: random.Random, folder: Path) -> str:
    path = folder / f"{rng.choice(LEAVES)}.toml"
    if rng.random() < 0.05:
        damage.folder(rng, folder)
    else:
        damage.file(rng, path)
    return path.name


def _open_preset(case: Case, name: str) -> None:
    preset = load_preset(case.given / name)
    Preset.model_validate_json(preset.model_dump_json())
    preset.doubts()


def settings(rng: random.Random, preset: str) -> list[str]:
    """`key=value` texts: known keys with other values, other keys, and what is neither."""
    keys = _keys(load_preset(preset).model_dump(mode="json"))
    found = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        key = rng.choice(keys) if rng.random() < 0.85 else values.text(rng, rng.choice((*keys, "teacher", "a.b")))
        value = damage.toml_value(rng) if rng.random() < 0.7 else str(rng.choice(values.ATOMS))
        text = f"{key}={value}"
        found.append(text if rng.random() < 0.9 else values.text(rng, text))
    return found


def _keys(table: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in table.items():
        found += [f"{prefix}{key}", *(_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [])]
    return found


def _attack_settings(rng: random.Random, _folder: Path) -> tuple[str, list[str]]:
    name = rng.choice(LEAVES)
    return name, settings(rng, name)


def _override(_case: Case, asked: tuple[str, list[str]]) -> None:
    load_preset(asked[0], asked[1])


def _plan_it(_case: Case, asked: tuple[str, list[str]]) -> None:
    plan(load_preset(asked[0], asked[1]))


HARMLESS = {
    "sample": ["sample", "3", "--model", "digits-1nfe", "--device", "cpu", "--out", "3.png"],
    "distill": ["distill", "-p", "digits-1nfe", "--plan"],
    "benchmark": [
        "benchmark", "--metric", "accuracy", "--model", "digits-1nfe", "--samples", "4", "--teacher-steps", "1",
        "--device", "cpu",
    ],
    "convert": ["convert", "digits-1nfe", "student", "--to", "lakonlab"],
    "presets": ["presets", "show", "digits-1nfe"],
    "list": ["presets", "list", "--json"],
}  # fmt: skip
"""Arguments that end well."""
OPTIONS = {
    "sample": ["--nfe", "--num-images", "--seed", "--seeds", "--width", "--height", "--guidance", "--negative-prompt",
               "--substeps", "--temperature", "--h", "--lora", "--offload", "--quantize", "--dtype", "--teacher",
               "--steps", "--grid", "--batch-size", "--device", "--prompts", "--base", "--preset", "--model", "--json"],
    "distill": ["--set", "--teacher", "--out", "--steps", "--batch-size", "--seed", "--device", "--gpus", "--fit",
                "--tflops", "--utilisation", "--num-machines", "--machine-rank", "--strategy", "--json", "-p"],
    "benchmark": ["--metric", "--model", "--nfe", "--h", "--samples", "--prompts", "--reference", "--detector",
                  "--teacher-steps", "--solver", "--seed", "--batch-size", "--dtype", "--json"],
    "convert": ["--to", "--verify", "--preset", "--base", "--dtype", "--force", "--device"],
    "presets": ["--set", "--json"],
    "list": ["--json"],
}  # fmt: skip
LARGE = ("--num-images", "--samples", "--steps", "--teacher-steps", "--substeps", "--nfe", "--batch-size", "--seeds")
"""What takes its time where it is allowed: it is asked for a little, or for more than is allowed."""


KEPT = ("--plan", "--out", "3.png", "student", "sample", "distill", "benchmark", "convert", "presets")
"""Words that stay: a run would take its time, and what is written is to be written here."""


def _attack_arguments(rng: random.Random, _folder: Path) -> list[str]:
    command = rng.choice(list(HARMLESS))
    words = list(HARMLESS[command])
    free = [place for place, word in enumerate(words) if word not in KEPT]
    if rng.random() < 0.3:
        place = rng.choice(free)
        words[place] = values.text(rng, words[place])
    elif rng.random() < 0.1:
        del words[rng.choice(free)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        option = rng.choice(OPTIONS[command])
        words += [option, _argument(rng, option)]
    if command == "sample" and rng.random() < 0.4:
        words.insert(1, rng.choice(values.TEXTS))
    return words


def _argument(rng: random.Random, option: str) -> str:
    if option in LARGE:
        return rng.choice(
            ("0", "-1", "1", "2", "2,1", "10000000000", "9" * 50, "9" * 5000, "1e3", "nan", "", "x", "1-2")
        )
    if option in ("--json", "--out"):
        return rng.choice(("x.json", "a/b.json", "-", "", "\0", "a" * 300, "猫.json", ".", "x" * 240 + "/y", "--nfe"))
    if option == "--set":
        return rng.choice(settings(rng, "digits-1nfe"))
    return str(rng.choice((*values.ATOMS, "auto", "cpu", "float16", "1x24GB", "0x1GB", "1xNaN GB", "9" * 99 + "x1GB")))


def _command(case: Case, words: list[str]) -> None:
    """The command in this process; what it prints is kept from the terminal."""
    with mock.patch.object(sys, "argv", ["piflow", *words]):
        ended = CliRunner().invoke(app, words)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception


def _nothing(_folder: Path) -> None:
    """No files."""


TARGETS = {
    "preset": Target(_copy_presets, _attack_preset, _open_preset, usual="digits-1nfe.toml"),
    "settings": Target(_nothing, _attack_settings, _override, usual=("digits-1nfe", ["training.steps=5"])),
    "plan": Target(_nothing, _attack_settings, _plan_it, usual=("digits-1nfe", ["training.steps=5"])),
    "arguments": Target(_nothing, _attack_arguments, _command, usual=HARMLESS["sample"], known=USAGE),
}
