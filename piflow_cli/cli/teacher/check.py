"""`piflow teacher check`: measure whether a family is right about a teacher."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.check.subject import Finding

app = typer.Typer(no_args_is_help=True, help="Prove teachers, and families of them.", rich_markup_mode=None)
WORDS = {True: "ok", False: "WRONG", None: "-"}
WIDTH = 18


@app.callback()
def teacher() -> None:
    """Prove teachers, and families of them."""


@app.command(
    "check",
    epilog=console.examples(
        ("a pipeline's folder, by the class that its index names", "piflow teacher check models/FLUX.1-dev"),
        ("one that is bundled", "piflow teacher check zoo:emoji"),
        (
            "a weight file, with what it does not say",
            "piflow teacher check models/dit.pth --family dit --set prediction=flow --set timestep_scale=1000",
        ),
    ),
)
def check(
    source: Annotated[str, typer.Argument(help="Folder, weight file, hub id or zoo:NAME.")],
    family: Annotated[
        str | None, typer.Option(metavar="NAME", help="Family of teachers. [default: by its pipeline's class]")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A key of the family's settings.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Measure whether a family is right about a teacher, a line for each thing.

    The network is loaded in float32 and held against the base's own diffusers pipeline: its arguments, time, sign,
    guidance, and a whole walk from the same noise; then pictures, untrained students, gradients and files. Exits with 1
    where something is wrong, and says what it probably is.

    Both read the same files: a base whose weights or configs were changed is right where the pipeline does the same.
    """
    from piflow_cli.engine.check.check import check_teacher
    from piflow_cli.engine.check.find import teacher_settings
    from piflow_cli.engine.students.device import resolve_device

    chosen = teacher_settings(source, family=family, settings=settings or [])
    if not as_json:
        typer.echo(f"{chosen.source} as a {chosen.type} teacher")
    result = check_teacher(chosen, device=resolve_device(device), on_finding=_ignore if as_json else _show)
    if as_json:
        facts = {"source": result.source, "family": result.family, "passed": result.passed}
        console.print_json(facts | {"findings": [asdict(finding) for finding in result.findings]})
    else:
        count = len(result.failures)
        typer.echo("nothing is wrong" if result.passed else f"wrong: {count} of {len(result.findings)}")
    if not result.passed:
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    typer.echo(f"  {WORDS[finding.passed]:<6} {finding.name:<{WIDTH}} {finding.said}")


def _ignore(_finding: Finding) -> None:
    """Nothing: the lines are printed together."""
