"""What `piflow distill --plan` and `--fit` print: memory, disk, time, and the least change that fits the GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.plan.fit import Fit
    from piflow_cli.preset import Preset


def print_plan(
    recipe: Preset,
    *,
    gpus: list[int],
    as_json: bool,
    fitted: Fit | None = None,
    tflops: float | None = None,
    utilisation: float | None = None,
) -> None:
    """Print what a run would cost.

    Args:
        recipe: as it would be run.
        gpus: numbers of GPUs to reckon with; none takes the usual ones.
        as_json: print one JSON object.
        fitted: the change that `recipe` comes of, if any.
        tflops, utilisation: of the GPU whose time is wanted, in place of the table's.
    """
    from piflow_cli.engine.plan.plan import plan
    from piflow_cli.engine.plan.report import report

    estimate = plan(recipe, gpus=gpus)
    times = _times(recipe, gpus or [1], tflops=tflops, utilisation=utilisation)
    if as_json:
        more = {"hours": times, "fit": None if fitted is None else list(fitted.settings)}
        console.print_json(estimate.to_dict() | more)
        return
    typer.echo(f"Plan of {recipe.name}: {recipe.summary}\n")
    for section in report(estimate):
        if section.columns:
            typer.echo(section.title)
            console.print_table(section.columns, section.rows)
            typer.echo()
        else:
            console.print_facts([(section.title, section.rows)])
    typer.echo("Time of all steps, at the peak of each GPU times the share of it that training reaches (assumed)")
    columns = ["GPU", "of its peak", "GPUs", "hours", "kWh"]
    console.print_table(columns, [_time_row(row) for row in times])
    if recipe.needs:
        typer.echo(f"\nThe recipe's own words: {recipe.needs}")


def _time_row(row: dict) -> list[str]:
    energy = "" if row["kwh"] is None else f"{row['kwh']:,.0f}"
    return [row["gpu"], f"{row['utilisation']:.0%}", str(row["gpus"]), f"{row['hours']:,.0f}", energy]


def _times(recipe: Preset, gpus: list[int], *, tflops: float | None, utilisation: float | None) -> list[dict]:
    """Hours and energy of the whole recipe for each kind and number of GPUs."""
    from piflow_cli.engine.plan.work import GPUS, UTILISATION, Gpu, hours, step_flops

    flops = step_flops(recipe) * recipe.training.steps
    share = UTILISATION if utilisation is None else utilisation
    kinds = GPUS if tflops is None else (Gpu(f"{tflops:g} TFLOPS", tflops, 0),)
    found = []
    for kind in kinds:
        for count in gpus:
            needed = hours(flops, tflops=kind.tflops, utilisation=share, gpus=count)
            energy = needed * kind.watts * count / 1000 if kind.watts else None
            found.append({"gpu": kind.name, "utilisation": share, "gpus": count, "hours": needed, "kwh": energy})
    return found


def fit_to(recipe: Preset, text: str) -> tuple[Fit, int]:
    """The least change of a preset that fits GPUs written as 1x24GB, and how many they are.

    Raises:
        PresetError: no such notation, or nothing makes it fit.
    """
    from piflow_cli.engine.plan.fit import fit, parse_gpus

    gpus, size_bytes = parse_gpus(text)
    return fit(recipe, gpus=gpus, size_bytes=size_bytes), gpus


def say_fit(found: Fit, *, gpus: int, text: str, preset: str, more: list[str]) -> None:
    """Say what a fit changes, what it gives up, and the line to paste.

    Args:
        found: the fit.
        gpus: how many.
        text: as they were typed.
        preset: as it was typed.
        more: the settings that were typed.
    """
    import shlex

    from piflow_cli.engine.plan.fit import memory_words

    line = ["piflow", "distill", "--preset", preset]
    line += [part for setting in (*more, *found.settings) for part in ("--set", setting)]
    if gpus > 1:
        line += ["--num-processes", str(gpus), "--strategy", strategy_of(found)]
    note = typer.echo
    note(f"To fit {text}: {shlex.join(line)}")
    note(f"Memory of each GPU: {memory_words(found)}")
    for cost in found.costs:
        console.warn(f"this is not the published recipe any more: {cost}")
    note("")


def strategy_of(found: Fit) -> str:
    """The strategy that a fit reckons with, as --strategy takes it."""
    return "fsdp2" if found.memory.strategy == "FSDP2" else "ddp"
