"""`piflow presets`: the recipes, and their keys."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.cli import console

EPILOG = console.examples(
    ("what there is", "piflow presets list"),
    ("a preset with every key, as a start for your own", "piflow presets show digits-1nfe > mine.toml"),
    ("whether a file is valid", "piflow presets check mine.toml"),
)

app = typer.Typer(help="List, show and check presets.", epilog=EPILOG, no_args_is_help=True, rich_markup_mode=None)
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command("list", epilog=console.examples(("what there is", "piflow presets list")))
def list_presets(as_json: AsJson = False) -> None:
    """List the named presets: what each does, the score to expect, and what it needs."""
    from piflow_cli.preset_files import preset_headers

    headers = preset_headers()
    if as_json:
        console.result_json([asdict(header) for header in headers])
        return
    for header in headers:
        rows = [("expected", header.expected), ("needs", header.needs), ("source", header.source)]
        shown = console.facts([row for row in rows if row[1]], indent="  ")
        console.result(f"{header.name}: {header.summary}\n{shown}\n")


@app.command(
    "show",
    no_args_is_help=True,
    epilog=console.examples(("a start for a preset of your own", "piflow presets show digits-1nfe > mine.toml")),
)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Preset by name, or a TOML file.")],
    as_json: AsJson = False,
) -> None:
    """Print a preset with every key, defaults too, as TOML that `check` accepts."""
    from piflow_cli.cli.preset_text import preset_text
    from piflow_cli.preset import load_preset

    preset = load_preset(name)
    if as_json:
        console.result_json(preset.model_dump(mode="json"))
    else:
        console.result(preset_text(preset))


@app.command(
    "check",
    no_args_is_help=True,
    epilog=console.examples(("whether a file is valid", "piflow presets check mine.toml")),
)
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML file, or a preset by name.")],
    as_json: AsJson = False,
) -> None:
    """Check a preset: every problem with its key, its value and what is allowed; exit code 1 where there is one."""
    from piflow_cli.preset import load_preset

    preset = load_preset(file)
    if as_json:
        console.result_json({"valid": True, "file": file, "preset": preset.model_dump(mode="json")})
        return
    console.result(
        f"{file} is valid: {preset.name}, a {preset.sampling.nfe}-NFE {preset.policy.type} student of a "
        f"{preset.teacher.type} teacher ({preset.teacher.source}), {preset.training.steps:,} steps of batch "
        f"{preset.training.batch_size:,} on {preset.data.type}"
    )
