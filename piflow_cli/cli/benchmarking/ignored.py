"""Options of `piflow benchmark` that another one would leave without effect: refused, not ignored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer


def refuse_beside(option: str, context: typer.Context, *, with_it: set[str]) -> None:
    """Refuse options of a measurement beside one that measures nothing.

    Args:
        option: that measures nothing.
        context: of the command line.
        with_it: names of the parameters that mean something beside the option.

    Raises:
        typer.BadParameter: others were given.
    """
    given = [name for parameter, name in _given(context).items() if parameter not in with_it]
    if given:
        said = f"measures nothing, and {', '.join(given)} would be ignored: leave out one or the other"
        raise typer.BadParameter(said, param_hint=f"'{option}'")


def refuse_without_effect(
    context: typer.Context,
    *,
    teacher_steps: Sequence[int],
    seeds: Sequence[int] | None,
    report: Path | None,
    json_file: Path | None,
) -> None:
    """Refuse options of a measurement that its others leave nothing to say.

    Args:
        context: of the command line.
        teacher_steps: of the teacher's rows; empty where there are none.
        seeds: several of them, None where one is measured.
        report, json_file: what is written.

    Raises:
        typer.BadParameter: one was given.
    """
    reasons = {
        "tolerance": "is what --limits calls good enough, and --limits was not given",
        "seed": "is said by the list of --seeds: leave out --seed" if seeds is not None else None,
        "solvers": None if teacher_steps else "is of the teacher's rows, and --teacher-steps none leaves them out",
        "intervals": "leaves out parts of one seed's pictures, and intervals of several --seeds are between them"
        if seeds is not None and len(seeds) > 1
        else None,
        "report": "names the same file as --json, which would be written over it"
        if report is not None and json_file is not None and report.resolve() == json_file.resolve()
        else None,
    }
    for parameter, name in _given(context).items():
        if reasons.get(parameter) is not None:
            raise typer.BadParameter(reasons[parameter], param_hint=f"'{name}'")


def _given(context: typer.Context) -> dict[str, str]:
    """The parameters that were typed, and their options."""
    found = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name == "COMMANDLINE":
            found[parameter.name] = parameter.opts[0]
    return found
