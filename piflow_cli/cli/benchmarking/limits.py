"""What policies can say of a teacher at best, as a table: `piflow benchmark --limits MODEL`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark.floors.floors import Floor, Floors


def print_limits(found: Floors) -> None:
    """A line for each policy, size, number of evaluations and window, and the cheapest that is good enough."""
    substeps = list(found.rows[0].errors)
    headings = ("policy", "size", "NFE", "window", "channels", *(f"{count} substeps" for count in substeps))
    console.print_table(headings, [_cells(row, substeps) for row in found.rows])
    typer.echo(
        "error: squared distance from the teacher where segments end, over the squared length of the way there; "
        "euler is one step of the teacher a segment"
    )
    typer.echo("a network is not part of it: a student is further away, by as much as its training leaves")
    if found.cheapest is None:
        typer.echo(f"none is within {found.tolerance:g}: take more evaluations (--nfe)")
    else:
        best = found.cheapest
        typer.echo(f"cheapest within {found.tolerance:g}: {best.policy} of size {best.size} at {best.nfe} NFE")
    typer.echo(f"{found.trajectories} trajectories of {found.teacher}, shift {found.shift:g}")


def _cells(row: Floor, substeps: list[int]) -> tuple[str, ...]:
    own = ("", "") if not row.size else (str(row.size), str(row.window))
    errors = (f"{row.errors[count]:.2g}" for count in substeps)
    return (row.policy, own[0], str(row.nfe), own[1], str(row.channels) if row.size else "", *errors)
