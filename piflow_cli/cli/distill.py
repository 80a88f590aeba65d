"""`piflow distill`: train a student by a preset."""

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
from piflow_cli.errors import PiflowError

if TYPE_CHECKING:
    from piflow_cli.engine.events import DistillEvent, DistillResult
    from piflow_cli.preset import Preset

EXAMPLES = console.examples(
    ("train the embedded 1-NFE recipe into runs/digits-1nfe", "piflow distill --preset digits-1nfe"),
    ("what a run would cost, without loading weights", "piflow distill --preset digits-1nfe --plan"),
    (
        "another teacher, another key, another folder",
        "piflow distill --preset dit-2nfe --teacher teacher.safetensors --set data.path=latents/ --out runs/mine",
    ),
    ("every GPU of the machine", "accelerate launch -m piflow_cli distill --preset dit-1nfe"),
)


def command(
    preset: Annotated[
        str, typer.Option("--preset", "-p", help="Preset name (see `piflow presets list`) or TOML file.")
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. training.steps=1000.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher's folder, weight file or hub id.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. [default: runs/PRESET]", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step, over all devices.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random draw.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with a run that is in --out.")] = True,
    plan: Annotated[bool, typer.Option("--plan", help="Say what the run would cost and stop.")] = False,
    devices: Annotated[int, typer.Option(help="Devices to plan for.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a student to imitate its teacher in a few network evaluations.

    Ctrl-C saves and stops; the same command goes on where it stopped.
    """
    from piflow_cli.preset import load_preset

    options = {"teacher.source": teacher, "training.steps": steps, "training.batch_size": batch_size}
    options["training.seed"] = seed
    chosen = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    recipe = load_preset(preset, [*(settings or []), *chosen])
    if plan:
        _plan(recipe, devices=devices, as_json=as_json)
        return
    result = _train(recipe, out=out or Path("runs") / recipe.name, device=device, resume=resume)
    if os.environ.get("RANK", "0") != "0":  # under `accelerate launch` the first process reports
        return
    if as_json:
        console.print_json(asdict(result))
    if result.interrupted:
        raise PiflowError(
            f"stopped at step {result.step} of {result.steps}; everything is saved in {result.out}. "
            f"To go on: {shlex.join(['piflow', *sys.argv[1:]])}"
        )
    if not as_json:
        typer.echo(f"student  {result.student}")
        typer.echo(f"try it   piflow sample 0 1 2 3 --model {result.out} --grid")


def _plan(recipe: Preset, *, devices: int, as_json: bool) -> None:
    from piflow_cli.engine.plan import plan

    estimate = plan(recipe, num_devices=devices)
    if as_json:
        console.print_json(estimate.to_dict())
        return
    typer.echo(f"Plan of {recipe.name}: {recipe.summary}\n")
    console.print_facts(estimate.sections())
    if recipe.needs:
        typer.echo(f"The recipe's own words: {recipe.needs}")


def _train(recipe: Preset, *, out: Path, device: str, resume: bool) -> DistillResult:
    from piflow_cli.engine.distill import distill

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    console.note(f"distilling {recipe.teacher.source} by {recipe.name} into {out}")
    with console.progress() as line:

        def show(event: DistillEvent) -> None:
            if event.kind == "step":
                line.update(event.step, event.steps, _words(event))
            elif event.kind in ("checkpoint", "preview"):
                line.say(f"{event.kind:<10} {event.path}")
            elif event.message:
                line.say(f"step {event.step}: {event.message}")

        result = distill(recipe, out=out, device=device, resume=resume, on_event=show)
    console.note(f"{result.step} steps in {console.duration(result.wall_s)}, {result.skipped} skipped")
    return result


def _words(event: DistillEvent) -> str:
    return (
        f"step {event.step}/{event.steps}  loss {event.loss:.4f}  lr {event.learning_rate:.2e}  "
        f"{event.images_per_s:.0f} images/s  {console.duration(event.remaining_s)} left"
    )
