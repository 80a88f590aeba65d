"""A preset for a teacher of the user's own: a commented file on top of one that there is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piflow_cli.core.adapter import chosen_targets
from piflow_cli.core.interfaces import Advice
from piflow_cli.engine.plan.checks import draws_pictures
from piflow_cli.engine.plan.model import described
from piflow_cli.engine.plan.plan import plan
from piflow_cli.errors import PresetError
from piflow_cli.io.presets import UNSET, Whole, parse_overrides, preset_paths
from piflow_cli.io.texts.names import user_path
from piflow_cli.io.texts.toml_text import commented, toml_value
from piflow_cli.preset import Preset, load_preset

RANK_SHARE = 3
"""Of the width of a small network, as in our own text-to-image recipes: 64 of 192."""
BLOCK = re.compile(r"^\w*blocks\.\d+\.")
PATHS = ("teacher.vae", "teacher.transformer", "data.path")
"""Keys whose values are written so that they hold from any folder, where they are here."""
TABLES = ("", "teacher", "policy", "adapter", "sampling", "objective", "optimizer", "training", "data")


@dataclass(frozen=True)
class Starter:
    """A new preset.

    Args:
        text: the file.
        preset: what it says.
    """

    text: str
    preset: Preset


def starter(source: str, *, name: str, teacher: str | None = None, settings: Sequence[str] = ()) -> Starter:
    """A preset that extends `source` with what another teacher needs; nothing is written, and no weights are read.

    Args:
        source: a preset's name or file.
        name: of the new one.
        teacher: its folder, weight file or hub id; None keeps that of `source`.
        settings: `key.path=value` settings to write into it as well.

    Raises:
        PresetError: `source` or a setting is not valid.
        ModelError: the teacher cannot be had, is of another family, or leaves open what the settings do not say.
    """
    given = {key: _anywhere(value) if key in PATHS else value for key, value in _typed(settings).items()}
    advised: list[Advice] = []
    if teacher is not None:
        given = {"teacher.source": _anywhere(teacher)} | given
        base = load_preset(source, _as_settings(given))
        base.teacher.check_source(pictures=draws_pictures(base))
        advised = [item for item in (*base.teacher.advice(), *_adapter_advice(base)) if item.key not in given]
    values = given | {item.key: item.value for item in advised if item.value is not None}
    preset = load_preset(source, _as_settings(values))
    plan(preset, gpus=(1,))
    origin = preset.made_from or (preset.name if preset.name in preset_paths() else "")
    own = {"name": name, "made_from": origin}
    return Starter(_text(preset, values, advised, source=source), preset.model_copy(update=own))


def _typed(settings: Sequence[str]) -> dict[str, Any]:
    """Settings as values by their key paths.

    Raises:
        PresetError: one that unsets a key, for which a file has no notation.
    """

    def leaves(table: dict[str, Any], path: str) -> dict[str, Any]:
        found = {}
        for key, value in table.items():
            found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
        return found

    found = leaves(parse_overrides(settings), "")
    if unset := [key for key, value in found.items() if value is UNSET]:
        raise PresetError(
            f"--set {unset[0]}=: a file cannot unset a key of the preset that it extends; give it a value"
        )
    return {key: value.values if isinstance(value, Whole) else value for key, value in found.items()}


def _as_settings(values: dict[str, Any]) -> list[str]:
    return [f"{key}={toml_value(value)}" for key, value in values.items()]


def _anywhere(source: str) -> str:
    """A path that holds from any folder, for one that is here."""
    path = user_path(source)
    return str(path.resolve()) if path.exists() else source


def _adapter_advice(preset: Preset) -> list[Advice]:
    """LoRA for a network of another width than the published one."""
    if preset.adapter is None:
        return []
    module, backbone = described(preset)
    replaced = (*backbone.trained_modules, backbone.projection_name)
    layers = chosen_targets(module, preset.adapter, backbone.lora_targets(module), replaced=replaced)
    found = [Advice("adapter.targets", None, f"{len(layers)} layers: {', '.join(_kinds(layers))}")]
    narrowest = min(min(module.get_submodule(name).weight.shape) for name in layers)
    width = backbone.embed_dim(module)
    if preset.adapter.rank > narrowest:
        rank = 1 << max(0, (width // RANK_SHARE).bit_length() - 1)  # the power of two below
        why = f"the network is {width} wide; {preset.adapter.rank} is more than its narrowest layer, {narrowest}"
        found.insert(0, Advice("adapter.rank", min(rank, narrowest), why))
    return found


def _kinds(layers: Sequence[str]) -> list[str]:
    """The layers of a block, and those that are in none, each once."""
    return list(dict.fromkeys(BLOCK.sub("", name) for name in layers))


def _text(preset: Preset, values: dict[str, Any], advised: Sequence[Advice], *, source: str) -> str:
    """The file."""
    why = {item.key: item.why for item in advised}
    changed = "for another teacher" if "teacher.source" in values else "with changes"
    lines = [
        f"# {preset.name} {changed}. Every key that is not here is that preset's: `piflow presets show FILE`",
        "# prints them all, `piflow distill --preset FILE --plan` says what it costs.",
        f"extends = {toml_value(_anywhere(source))}",
        f"summary = {toml_value(f'{preset.name} for {Path(preset.teacher.source).name}')}",
    ]
    keys = dict.fromkeys([*values, *why, "data.path"])
    has_path = "path" in type(preset.data).model_fields
    values = ({"data.path": preset.data.path} if has_path else {}) | values
    for table in TABLES:
        own = [key for key in keys if key.rpartition(".")[0] == table and (has_path or key != "data.path")]
        lines += ["", f"[{table}]"] if own and table else []
        for key in own:
            short, comment = key.rpartition(".")[2], why.get(key)
            if key in values:
                lines.append(commented(f"{short} = {toml_value(values[key])}", comment))
            else:
                lines.append(f"# {short}: {comment}")
    return "\n".join(lines) + "\n"
