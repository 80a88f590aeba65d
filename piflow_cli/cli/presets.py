"""`piflow presets`: list, show and check recipes, and begin new ones."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.cli import console

app = typer.Typer(
    no_args_is_help=True, help="List, show and check presets, and begin one of your own.", rich_markup_mode=None
)
HEADER = ("expected", "needs", "source")


@app.command("list", epilog=console.examples(("what there is", "piflow presets list")))
def list_presets(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the named presets by the family of their teacher, with what they expect and need."""
    from piflow_cli.io.presets import preset_headers

    headers = preset_headers()
    if as_json:
        console.print_json([asdict(header) for header in headers])
        return
    for family, group in groupby(headers, key=lambda header: header.family):
        typer.echo(f"Teachers of type {family or 'unknown'}\n")
        console.print_facts(
            [(f"{header.name}: {header.summary}", [(key, getattr(header, key)) for key in HEADER]) for header in group]
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
    from piflow_cli.io.texts.toml_text import toml_lines
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
    from piflow_cli.engine.plan.checks import check_sizes
    from piflow_cli.preset import load_preset

    preset = load_preset(file)
    check_sizes(preset)
    if as_json:
        console.print_json({"name": preset.name, "valid": True, "doubts": preset.doubts()})
        return
    for doubt in preset.doubts():
        console.warn(doubt)
    typer.echo(f"{file} is valid: {preset.name}")


@app.command(
    "new",
    epilog=console.examples(
        (
            "a FLUX.1 pipeline of your own, by the published recipe",
            "piflow presets new mine.toml --from flux-4nfe --teacher my-pipeline",
        ),
        (
            "a DiT and class folders",
            "piflow presets new dogs.toml --from dit-1nfe --teacher my-dit --set data.type=images --set data.path=dogs",
        ),
    ),
)
def new(
    file: Annotated[Path, typer.Argument(help="The TOML file to write.")],
    source: Annotated[str, typer.Option("--from", help="Preset that it extends: a name or a TOML file.")],
    teacher: Annotated[
        str | None, typer.Option(help="Teacher's folder, weight file or hub id. [default: as the preset]")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another key to write into it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a preset of your own: what your teacher needs, with the reasons, on top of a preset that there is."""
    from piflow_cli.engine.plan.starter import starter
    from piflow_cli.errors import StorageError
    from piflow_cli.io.files import check_file, write_atomic

    if file.suffix != ".toml":
        raise typer.BadParameter(f"{file} is no .toml file; presets are found by this suffix", param_hint="FILE")
    check_file(file)
    if file.exists() and not force:
        raise StorageError(f"{file} exists and is not written over; choose another name, or --force to replace it")
    made = starter(source, name=file.stem, teacher=teacher, settings=settings or ())
    write_atomic(file, made.text)
    for doubt in made.preset.doubts():
        console.warn(doubt)
    typer.echo(made.text)
    console.note(f"written to {file}. What it costs: piflow distill --preset {file} --plan")
