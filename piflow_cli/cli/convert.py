"""`piflow convert`: a student in another format."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from piflow_cli import registry
from piflow_cli.cli import console

EPILOG = console.examples(
    ("a trained student for the authors' code, checked", "piflow convert runs/dit-1nfe out --to lakonlab --verify"),
    (
        "a released student for piflow",
        "piflow convert released/diffusion_pytorch_model.safetensors student --to native --preset dit-1nfe",
    ),
)


def convert(
    src: Annotated[str, typer.Argument(metavar="SRC", help="Student or run folder, weight file, name or hub id.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; it must not exist.")],
    to: Annotated[str, typer.Option("--to", metavar="|".join(registry.names("format")), help="Format to write.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the result back and print the largest difference of outputs.")
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="NAME|FILE", help="How it was trained, where the source does not say it."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a student that is at DST.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a student in another format; every tensor keeps its values."""
    from piflow_cli.engine.convert import convert as convert_student

    result = convert_student(src, dst, to=to, verify=verify, preset=preset, force=force)
    for warning in result.warnings:
        console.warn(warning)
    if as_json:
        console.result_json(asdict(result))
        return
    rows = [
        ("student", str(result.path)),
        ("format", f"{result.source_format} -> {result.format}"),
        ("tensors", f"{result.num_tensors:,}"),
    ]
    if result.max_difference is not None:
        rows.append(("largest difference", f"{result.max_difference:.3g}"))
    console.result(console.facts(rows))
