"""`piflow presets`: list, show and check recipes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from pydantic import BaseModel

app = typer.Typer(no_args_is_help=True, help="List, show and check presets.", rich_markup_mode=None)
HEADER = ("expected", "needs", "source")


@app.command("list", epilog=console.examples(("what there is", "piflow presets list")))
def list_presets(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the named presets with what they expect and need."""
    from piflow_cli.io.presets import preset_headers

    headers = preset_headers()
    if as_json:
        console.print_json([asdict(header) for header in headers])
        return
    console.print_facts(
        [(f"{header.name}: {header.summary}", [(key, getattr(header, key)) for key in HEADER]) for header in headers]
    )


@app.command(
    "show", epilog=console.examples(("a start for one of your own", "piflow presets show digits-1nfe > mine.toml"))
)
def show(
    name: Annotated[str, typer.Argument(help="Preset name or TOML file.")],
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print a preset with every key resolved, as TOML with a comment on each, under the words of its file.

    They say where its numbers come from, and where teacher, data and prompts are to be had.
    """
    from piflow_cli.io.presets import read_table, words_of
    from piflow_cli.preset import load_preset

    preset = load_preset(name, settings or [])
    if as_json:
        console.print_json(preset.model_dump(mode="json"))
        return
    typer.echo("\n".join([*words_of(read_table(name).path), *toml_lines(preset)]))


@app.command("check", epilog=console.examples(("whether a file is valid", "piflow presets check mine.toml")))
def check(
    file: Annotated[str, typer.Argument(help="TOML file or preset name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Validate a preset; every problem is named with its full key path."""
    from piflow_cli.preset import load_preset

    preset = load_preset(file)
    if as_json:
        console.print_json({"name": preset.name, "valid": True, "doubts": preset.doubts()})
        return
    for doubt in preset.doubts():
        console.warn(doubt)
    typer.echo(f"{file} is valid: {preset.name}")


def toml_lines(settings: BaseModel, table: str = "") -> list[str]:
    """A settings tree as TOML: values first, then tables; keys that are unset are comments."""
    from pydantic import BaseModel

    lines, tables = [], []
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        if isinstance(value, BaseModel):
            tables.append((key, value))
            continue
        shown = f"# {key} is unset" if value is None else f"{key} = {toml_value(value)}"
        lines.append(f"{shown:<44}  # {field.description}" if field.description else shown)
    for key, value in tables:
        lines += ["", f"[{table}{key}]", *toml_lines(value, f"{table}{key}.")]
    return lines


def toml_value(value: object) -> str:
    """A scalar or list in TOML's notation."""
    import json

    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
