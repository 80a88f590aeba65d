"""Preset files as tables: where they are, their headers, one over another, and changes typed on the command line."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piflow_cli import registry
from piflow_cli.errors import PresetError
from piflow_cli.io.bounds import MAX_DEPTH, bounded_toml
from piflow_cli.io.regular import read_text
from piflow_cli.io.texts.names import user_path

MAX_SHOWN = 160
"""Characters of a setting that a message repeats."""
TOML_HINT = "Quote strings with commas, spaces or brackets twice, for the shell and for TOML: --set 'key=\"a, b\"'."


MAX_PARENTS = 16
"""Presets that one may extend, one over the other."""


@dataclass(frozen=True)
class PresetHeader:
    """What a preset says of itself, and the family of its teacher."""

    name: str
    family: str
    path: Path
    summary: str
    source: str
    expected: str
    needs: str


def preset_folders() -> list[Path]:
    """Where named presets are: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).parents[1]
    return [folder for folder in (package / "_presets", package.parent / "presets") if folder.is_dir()]


def preset_paths() -> dict[str, Path]:
    """The named presets, by name."""
    folders = preset_folders()
    return {path.stem: path for path in sorted(folders[0].glob("*.toml"))} if folders else {}


def shipped_name(chain: Sequence[Path]) -> str:
    """What the first preset that ships is called, among those that one extends; empty if it ships itself, or none does.

    Args:
        chain: the files, from the preset itself to the one that extends no other.
    """
    names = {path.resolve(): name for name, path in preset_paths().items()}
    return "" if chain[0] in names else next((names[path] for path in chain if path in names), "")


def preset_headers() -> list[PresetHeader]:
    """The headers of all named presets, by family and by name.

    Raises:
        PresetError: one of them is not TOML.
    """
    headers, order = [read_header(path) for path in preset_paths().values()], registry.names("teacher")
    return sorted(headers, key=lambda header: order.index(header.family) if header.family in order else len(order))


def read_header(path: Path) -> PresetHeader:
    """The header of a preset file; keys that are not there are empty.

    Raises:
        PresetError: it is not TOML.
    """
    try:
        table = bounded_toml(read_text(path))
    except (ValueError, OSError) as error:  # what is no UTF-8 text too
        raise PresetError(f"{path} is not TOML that can be read: {error}") from None
    texts = {key: str(table.get(key, "")) for key in ("summary", "source", "expected", "needs")}
    return PresetHeader(name=str(table.get("name", path.stem)), family=_family(table, path), path=path, **texts)


def _family(table: Mapping[str, Any], path: Path, *, depth: int = 0) -> str:
    """The family of a preset's teacher: its own, or that of the preset that it extends; empty where neither says it."""
    teacher = table.get("teacher")
    if isinstance(teacher, Mapping) and "type" in teacher:
        return str(teacher["type"])
    parent = table.get("extends")
    if not isinstance(parent, str) or depth > MAX_PARENTS:
        return ""
    found = read_table(parent, beside=path)
    return _family(found.values, found.path, depth=depth + 1)


def words_of(path: Path) -> list[str]:
    """The comment that a preset file begins with, a line each, and an empty line after it; none where it has none."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    return [*lines, ""] if lines else []


@dataclass(frozen=True)
class PresetTable:
    """The raw values of one file."""

    path: Path
    values: dict[str, Any]


@dataclass(frozen=True)
class Whole:
    """A table that replaces another one, where tables otherwise change key by key."""

    values: dict[str, Any]


UNSET = object()
"""A value that takes a key away, so that its default holds."""


def read_table(name_or_path: str | Path, *, beside: Path | None = None) -> PresetTable:
    """One preset's own table, by name or path.

    Args:
        name_or_path: a named preset, or a TOML file.
        beside: the file that names it: relative paths are looked for there first.

    Raises:
        PresetError: no such name or file, or no TOML.
    """
    text = str(name_or_path)
    named = preset_paths()
    path = named.get(text) or user_path(text)
    if beside is not None and text not in named and (beside.parent / path).is_file():
        path = beside.parent / path
    if not path.is_file():
        if path.suffix == ".toml" or "/" in text:
            raise PresetError(f"there is no preset file {text}. Named presets: {', '.join(named)}.")
        raise PresetError(registry.unknown_name("preset", text, list(named)))
    try:
        return PresetTable(path.resolve(), bounded_toml(read_text(path)))
    except (ValueError, OSError) as error:  # what is no UTF-8 text too
        raise PresetError(f"{path} is not TOML that can be read: {error}") from None


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`key.path=value` settings as one tree of changes, the last of a key winning.

    Raises:
        PresetError: no key, or a value of which a part is set too.
    """
    changes: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts) or len(parts) > MAX_DEPTH:
            shown = repr(override[:MAX_SHOWN]) + "..." * (len(override) > MAX_SHOWN)
            raise PresetError(f"--set takes key.path=value, such as training.steps=1000; got {shown}")
        table = changes
        for parent in parts[:-1]:
            table = table.setdefault(parent, {})
            table = table.values if isinstance(table, Whole) else table
            if not isinstance(table, dict):
                raise PresetError(f"--set {override}: {parent} is a value, not a table")
        table[parts[-1]] = _parse_value(text)
    return changes


def _parse_value(text: str) -> Any:
    """A value in TOML's notation, a bare word as a string, nothing as UNSET.

    Raises:
        PresetError: it begins as a list, a table or a string and is none, or is out of bounds.
    """
    text = text.strip()
    if not text:
        return UNSET
    if "\n" in text or "\r" in text:  # a second line would be a key of its own
        return text
    try:
        value = bounded_toml(f"v = {text}")["v"]
    except ValueError as error:
        if text[0] in "[{\"'" or not isinstance(error, tomllib.TOMLDecodeError):
            raise PresetError(f"--set: {text[:80]} is no value in TOML's notation ({error}). {TOML_HINT}") from None
        return text
    return Whole(value) if isinstance(value, dict) else value


def merge_tables(
    base: Mapping[str, Any], changes: Mapping[str, Any], *, known_keys: Callable[[str, str], set[str]], path: str = ""
) -> dict[str, Any]:
    """A table with changes put over it, key by key.

    Where a change gives a table another `type`, keys of the former type that the new one does not have are dropped.

    Args:
        base: a preset's table; it is not changed.
        changes: tables, values, `Whole` tables and UNSET.
        known_keys: (table, type) -> keys of that family.
        path: of the table, for messages.

    Raises:
        PresetError: a part of a value is to be changed.
    """
    merged = dict(base)
    for key, change in changes.items():
        if change is UNSET:
            merged.pop(key, None)
        elif isinstance(change, Whole):
            merged[key] = change.values
        elif isinstance(change, Mapping):
            old = merged.get(key, {})
            if not isinstance(old, Mapping):
                raise PresetError(f"--set {path}{key}.{next(iter(change))}: {key} is a value, not a table")
            if "type" in old and isinstance(change.get("type"), str) and change["type"] != old["type"]:
                known = known_keys(key, change["type"])
                old = {name: value for name, value in old.items() if name in known}
            merged[key] = merge_tables(old, change, known_keys=known_keys, path=f"{path}{key}.")
        else:
            merged[key] = change
    return merged
