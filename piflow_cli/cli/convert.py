"""`piflow convert`: write a student in another format."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.cli import console

EXAMPLES = console.examples(
    ("the authors' layout, proved by outputs", "piflow convert runs/dit-1nfe released/ --to lakonlab --verify"),
    (
        "take from a preset what a released file leaves open",
        "piflow convert released.safetensors mine/ --to native --preset dit-1nfe",
    ),
)


def command(
    src: Annotated[str, typer.Argument(help="Student or run folder, released weight file, embedded name or hub id.")],
    dst: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    to: Annotated[str, typer.Option("--to", metavar="native|lakonlab", help="Format to write.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read it back and compare outputs on random input.")] = False,
    preset: Annotated[
        str | None, typer.Option(help="Preset that a released student was trained by, where its files do not say it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a student that is at DST.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert a student between piflow's folder and the authors' released layout."""
    from piflow_cli.engine.convert import convert

    result = convert(src, dst, to=to, verify=verify, preset=preset, force=force)
    for warning in result.warnings:
        console.warn(warning)
    if as_json:
        console.print_json(asdict(result))
        return
    typer.echo(f"{result.path}  ({result.num_tensors} tensors, {result.source_format} to {result.format})")
    if result.max_difference is not None:
        typer.echo(f"verified: largest difference of outputs on random input {result.max_difference:.3g}")
