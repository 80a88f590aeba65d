"""A run's preset in a page: every key, and what differs from the preset of that name or from other runs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from piflow_cli.errors import PiflowError
from piflow_cli.io.presets import preset_paths
from piflow_cli.io.texts.json_text import differences
from piflow_cli.io.texts.toml_text import toml_value
from piflow_cli.preset import WORDS, load_preset

MAX_CHARACTERS = 300
"""Of a value in a table."""
MAX_ROWS = 300


@dataclass(frozen=True)
class Setting:
    """A key, and its value in each column."""

    key: str
    values: tuple[str, ...]


@functools.cache
def named_preset(name: str) -> Mapping[str, Any] | None:
    """The values of the preset that ships under a name; None where none does."""
    if name not in preset_paths():
        return None
    try:
        return load_preset(name).model_dump(mode="json")
    except PiflowError:
        return None


def origin_of(preset: Mapping[str, Any]) -> str:
    """What the preset is called from which this one was made, or it itself; a file may say anything."""
    said = (preset.get(key) for key in ("made_from", "name"))
    return next((name for name in said if isinstance(name, str) and name), "unknown")


def changed_settings(preset: Mapping[str, Any]) -> list[Setting] | None:
    """What differs from the preset that this one was made from, or is, as (there, here); None where none ships."""
    named = named_preset(origin_of(preset))
    if named is None:
        return None
    found = [item for item in differences(named, preset) if item[0] not in WORDS]
    return [Setting(cut(key), (said(there), said(here))) for key, there, here in found[:MAX_ROWS]]


def all_settings(preset: Mapping[str, Any]) -> list[Setting]:
    """Every key and its value."""
    return [Setting(cut(key), (said(value),)) for key, value in _leaves(preset)][:MAX_ROWS]


def compared_settings(presets: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """The keys in which runs differ, with the value of each."""
    trees = [{key: value for key, value in preset.items() if key not in WORDS} for preset in presets]
    tables = [dict(_leaves(tree)) for tree in trees]
    keys = _by_table(dict.fromkeys(key for table in tables for key in table))
    rows = [Setting(cut(key), tuple(said(table[key]) if key in table else "" for table in tables)) for key in keys]
    return [row for row in rows if len(set(row.values)) > 1][:MAX_ROWS]


def _by_table(keys: Iterable[str]) -> list[str]:
    """Keys with those of one table together, in the order of the tables' first ones."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(key.split(".")[0], []).append(key)
    return [key for table in found.values() for key in table]


def said(value: object) -> str:
    """A value in TOML's notation, as much of it as a table holds."""
    return "unset" if value is None else cut(toml_value(value))


def cut(text: str) -> str:
    """As much of a text as a table holds."""
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
