"""`piflow distill`: a preset becomes a student."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.distill import DistillEvent, DistillResult
    from piflow_cli.engine.plan import Plan
    from piflow_cli.preset import Preset

RUNS = Path("runs")

EPILOG = console.examples(
    ("the embedded teacher, a few minutes on a CPU", "piflow distill --preset digits-1nfe"),
    ("what a run will cost, before anything is loaded", "piflow distill --preset digits-1nfe --plan"),
    (
        "change any key of the preset",
        "piflow distill --preset digits-1nfe --set policy.num_components=16 --set optimizer.learning_rate=3e-4",
    ),
    ("a preset of your own, a teacher from a folder", "piflow distill --preset mine.toml --teacher models/dit"),
    ("go on with a run that was stopped: the same command", "piflow distill --preset digits-1nfe --out runs/first"),
)


def distill(
    preset: Annotated[str, typer.Option("--preset", metavar="NAME|FILE", help="Preset by name, or a TOML file.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the preset; may be given several times."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", metavar="PATH|HUB-ID", help="Teacher instead of the preset's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the run; unset: runs/PRESET.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Optimiser steps.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Samples an optimiser step, over all devices.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of every random draw.")] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps; unset: auto.")
    ] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with the run in --out, or refuse to; unset: go on.")
    ] = True,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print parameters, memory, disk and steps, without loading weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Distil a teacher into a student by a preset.

    The run's folder gets metrics.jsonl, the resolved preset, previews, checkpoints and, at the end, the student. Ctrl-C
    saves; the same command goes on.
    """
    from piflow_cli.preset import load_preset

    flags = {
        "teacher.source": teacher,
        "training.steps": steps,
        "training.batch_size": batch_size,
        "training.seed": seed,
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    recipe = load_preset(preset, [*(settings or []), *overrides])
    if plan:
        _print_plan(_plan(recipe), as_json=as_json)
        return
    _run(recipe, out=out or RUNS / recipe.name, device=device, resume=resume, as_json=as_json)


def _plan(recipe: Preset) -> Plan:
    from piflow_cli.engine.plan import plan

    return plan(recipe)


def _print_plan(estimate: Plan, *, as_json: bool) -> None:
    if as_json:
        console.result_json(estimate.to_dict())
        return
    for title, rows in estimate.sections():
        console.result(f"{title}\n{console.facts(rows, indent='  ')}\n")


def _run(recipe: Preset, *, out: Path, device: str, resume: bool, as_json: bool) -> None:
    from piflow_cli.engine.distill import distill as distill_model

    with console.meter(recipe.name) as meter:
        result = distill_model(
            recipe, out=out, device=device, resume=resume, on_event=lambda event: show(event, meter)
        )
    if os.environ.get("RANK", "0") != "0":  # under `accelerate launch` the first process reports
        return
    _print_result(recipe.name, result, as_json=as_json)
    if result.interrupted:
        console.error(
            f"stopped at step {result.step:,} of {result.steps:,}; everything is saved. To go on:\n"
            f"  {shlex.join(['piflow', *sys.argv[1:]])}"
        )
        raise typer.Exit(1)


def show(event: DistillEvent, meter: console.Meter) -> None:
    """Show what happened in a run: the live line, or a line that stays."""
    if event.kind == "step":
        meter.update(event.step, event.steps, step_text(event), remaining_s=event.remaining_s)
    elif event.kind in ("checkpoint", "preview"):
        meter.line(f"{event.kind} {event.path}")
    elif event.kind == "skipped" or (event.kind == "start" and event.message):
        meter.line(f"step {event.step}: {event.message}" if event.kind == "skipped" else event.message)


def step_text(event: DistillEvent) -> str:
    """Loss, learning rate and pace of a step."""
    parts = [
        ("loss {:.4g}", event.loss),
        ("lr {:.3g}", event.learning_rate),
        ("{:.0f} images/s", event.images_per_s),
    ]
    return "  ".join(form.format(value) for form, value in parts if value is not None)


def _print_result(name: str, result: DistillResult, *, as_json: bool) -> None:
    if as_json:
        console.result_json({"preset": name, **asdict(result)})
        return
    skipped = f", {result.skipped} skipped" if result.skipped else ""
    rows = [
        ("student", str(result.student)),
        ("steps", f"{result.step:,} of {result.steps:,} in {console.duration(result.wall_s)}{skipped}"),
    ]
    if result.loss is not None:
        rows.append(("last loss", f"{result.loss:.4g}"))
    if not result.interrupted:
        rows.append(("next", f"piflow sample PROMPT --model {shlex.quote(str(result.out))}"))
    console.result(console.facts(rows))
