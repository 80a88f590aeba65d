"""Keys of presets that pages name are keys that presets have."""

import re
import tomllib
from pathlib import Path

import pytest

from piflow_cli import registry
from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.preset import FAMILIES, Preset

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
KEYS = {
    "adapter": set(AdapterSettings.model_fields),
    **{
        name: set(Preset.model_fields[name].annotation.model_fields) for name in ("optimizer", "training", "validation")
    },
    "sampling": set(Preset.model_fields["sampling"].annotation.model_fields),
    **{
        kind: {key for name in registry.names(kind) for key in registry.resolve(kind, name).model_fields}
        for kind in FAMILIES
    },
}
"""By table; of families, the keys of any."""
SUFFIXES = {"py", "json", "png", "toml", "safetensors", "html", "md"}
"""What follows a dot in the name of a file."""


def named(text: str) -> list[tuple[str, str]]:
    """(table, key) of everything in code that reads as a key: in sentences, in `--set`, and on the command line."""
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"--set ['\"]?(\S+)", text)
    pairs = [pair for found in code for pair in re.findall(rf"(?<![\w./])({'|'.join(KEYS)})\.(\w+)\b(?![(/])", found)]
    return [(table, key) for table, key in pairs if key not in SUFFIXES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_exist(page: Path) -> None:
    wrong = [f"{t}.{key}" for t, key in named(page.read_text(encoding="utf-8")) if key not in KEYS[t]]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_in_toml_exist(page: Path) -> None:
    for block in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for table, values in tomllib.loads(block).items():
            if isinstance(values, dict):
                assert set(values) <= KEYS[table], f"{page.name}: {table}"
            else:
                assert table in {*Preset.model_fields, "extends"}, page.name


def test_keys_are_found() -> None:
    assert len({pair for page in PAGES for pair in named(page.read_text(encoding="utf-8"))}) > 40
