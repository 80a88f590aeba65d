"""Where the named presets are, and their headers, read without loading what a preset needs."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from piflow_cli.errors import PresetError


@dataclass(frozen=True)
class PresetHeader:
    """What a preset says of itself."""

    name: str
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


def preset_headers() -> list[PresetHeader]:
    """The headers of all named presets, by name.

    Raises:
        PresetError: one of them is not TOML.
    """
    return [read_header(path) for path in preset_paths().values()]


def read_header(path: Path) -> PresetHeader:
    """The header of a preset file; keys that are not there are empty.

    Raises:
        PresetError: it is not TOML.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PresetError(f"{path} is not TOML: {error}") from None
    texts = {key: str(table.get(key, "")) for key in ("summary", "source", "expected", "needs")}
    return PresetHeader(name=str(table.get("name", path.stem)), path=path, **texts)
