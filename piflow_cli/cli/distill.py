"""`piflow distill`: train a student by a preset."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli.cli import console
from piflow_cli.cli.distilling.caching import fill_caches
from piflow_cli.cli.distilling.planning import fit_to, print_plan, say_fit, strategy_of
from piflow_cli.cli.distilling.telling import show
from piflow_cli.cli.distilling.verification import Line, check_verify, verify_resume
from piflow_cli.cli.processes import (
    MachineRank,
    MainProcess,
    NumMachines,
    NumProcesses,
    StrategyOption,
    is_one_of_many,
    start_processes,
)
from piflow_cli.cli.typed import typed_command
from piflow_cli.errors import PiflowError
from piflow_cli.io.texts.amounts import duration

if TYPE_CHECKING:
    from piflow_cli.engine.distill.events import DistillResult
    from piflow_cli.preset import Preset

EXAMPLES = console.examples(
    ("train the embedded 1-NFE recipe into runs/digits-1nfe", "piflow distill --preset digits-1nfe"),
    ("what a run would cost, without loading weights", "piflow distill --preset digits-1nfe --plan"),
    ("what to change to train on one card of 24 GB", 'piflow distill --preset flux-4nfe --plan --fit "1x24GB"'),
    (
        "another teacher, another key, another folder",
        "piflow distill --preset dit-2nfe --teacher teacher.safetensors --set data.path=latents/ --out runs/mine",
    ),
    (
        "go on from a student for another number of evaluations, as a run of its own",
        "piflow distill --preset digits-2nfe --init runs/digits-1nfe --out runs/two",
    ),
    (
        "encode the prompts once; the training then needs no text encoder",
        "piflow distill --preset flux-4nfe-datafree --cache-only",
    ),
    (
        "whether a run that is stopped goes on as if it had not been, on two processes",
        "piflow distill --preset digits-1nfe --device cpu --num-processes 2 --verify-resume 2",
    ),
    (
        "eight GPUs of this machine, the network sharded",
        "piflow distill --preset flux-4nfe --num-processes 8 --strategy fsdp2",
    ),
)
PICTURE = "PICTURE.png"
"""Stands in a line to try for a file of the user's."""
KEPT_CHECKPOINTS = "What was saved is kept: the same command goes on from the newest checkpoint."
KEPT_SHARDS = "Whole shards are kept: the same command builds the others."


def _numbers(text: str | None) -> str | None:
    """Numbers from 1, such as 1,8, as they are written; refused by Typer otherwise."""
    if text is not None and not all(part.strip().isdecimal() and int(part) for part in text.split(",")):
        raise typer.BadParameter(f"{text!r} is no list of numbers from 1, such as 1,8")
    return text


def command(
    preset: Annotated[
        str, typer.Option("--preset", "-p", help="Preset name (see `piflow presets list`) or TOML file.")
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. training.steps=1000.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher's folder, weight file or hub id.")] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Begin with this student: a folder, run, RUN@STEP, name or hub id. [default: the teacher]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. [default: runs/PRESET]", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step, over all devices.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random draw.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with a run that is in --out.")] = True,
    plan: Annotated[bool, typer.Option("--plan", help="Say what the run would cost and stop.")] = False,
    cache_only: Annotated[
        bool, typer.Option("--cache-only", help="Encode prompts into data.cache, pictures into data.latents, and stop.")
    ] = False,
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="N,...",
            help="Numbers of GPUs that --plan reckons with. [default: 1,2,4,8,32]",
            show_default=False,
            callback=_numbers,
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="NxSIZE",
            help="GPUs at hand, such as 1x24GB: change the preset as little as makes it fit; with --plan only say how.",
            show_default=False,
        ),
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(help="Peak of the GPU that --plan reckons time for.", show_default=False, min=0.1)
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(
            help="Share of the peak that --plan reckons with. [default: 0.35]", show_default=False, min=0.01, max=1
        ),
    ] = None,
    num_processes: NumProcesses = None,
    num_machines: NumMachines = 1,
    machine_rank: MachineRank = 0,
    main_process: MainProcess = None,
    strategy: StrategyOption = "auto",
    stop_after: Annotated[
        int | None,
        typer.Option(help="Step at which to save and stop; the same command goes on.", show_default=False, min=1),
    ] = None,
    verify: Annotated[
        int | None,
        typer.Option(
            "--verify-resume",
            metavar="K",
            help="Compare 2 K steps with K, a stop, a new process and K more; keeps nothing where they are equal.",
            show_default=False,
            min=1,
        ),
    ] = None,
    verify_processes: Annotated[
        int | None,
        typer.Option(
            "--verify-resume-processes", help="Processes of the K steps after the stop.", show_default=False, min=1
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a student to imitate its teacher in a few network evaluations.

    Ctrl-C saves and stops; the same command goes on where it stopped.
    """
    from piflow_cli.preset import load_preset

    if verify is not None:
        check_verify(plan=plan, cache_only=cache_only, num_machines=num_machines, started=is_one_of_many())
    options = {"teacher.source": teacher, "training.steps": steps, "training.batch_size": batch_size}
    options |= {"training.seed": seed, "training.init": init}
    chosen = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    recipe = load_preset(preset, [*(settings or []), *chosen])
    for doubt in recipe.doubts() if _reports() else ():
        console.warn(doubt)
    fitted, counts = None, [int(number) for number in gpus.split(",")] if gpus else []
    if fit is not None:
        fitted, at_hand = fit_to(recipe, fit)
        recipe, counts = fitted.preset, counts or [at_hand]
        if at_hand > 1:
            num_processes, strategy = num_processes or at_hand, strategy_of(fitted) if strategy == "auto" else strategy
        if _reports() and not as_json:
            say_fit(fitted, gpus=at_hand, text=fit, preset=preset, more=[*(settings or []), *chosen])
    if plan:
        print_plan(recipe, gpus=counts, as_json=as_json, fitted=fitted, tflops=tflops, utilisation=utilisation)
        return
    if verify is not None:
        made = [*(settings or []), *chosen, *(fitted.settings if fitted else ())]
        line = Line(preset, made, device, strategy, num_processes or 1)
        where = out or Path("runs") / recipe.name
        verify_resume(line, recipe, steps=verify, then=verify_processes, out=where, as_json=as_json)
        return
    spread = {"num_machines": num_machines, "machine_rank": machine_rank, "main_process": main_process}
    if not cache_only:
        _check_processes(recipe, (num_processes or 1) * num_machines, sharded=strategy == "fsdp2")
    start_processes(num_processes, strategy=strategy, kept=KEPT_SHARDS if cache_only else KEPT_CHECKPOINTS, **spread)
    if cache_only:
        fill_caches(recipe, device=device, as_json=as_json)
        return
    result = _train(recipe, out=out or Path("runs") / recipe.name, device=device, resume=resume, stop_after=stop_after)
    if not _reports():
        return
    if as_json:
        console.print_json(asdict(result))
    if result.interrupted and not (stop_after and result.step >= stop_after):
        job = os.environ.get("SLURM_JOB_ID") if result.warned else None
        why = ", before its time was over (SIGUSR1)" if result.warned else ""
        requeue = f"To requeue the job: scontrol requeue {job}. " if job else ""
        raise PiflowError(
            f"stopped at step {result.step} of {result.steps}{why}; everything is saved in {result.out}. {requeue}"
            f"To go on: {typed_command()}"
        )
    if not as_json:
        typer.echo(f"student  {result.student}")
        pictures = ["--image", PICTURE] * recipe.teacher.num_pictures[0]
        line = ["piflow", "sample", *result.examples, *pictures, "--model", str(result.out), "--grid"]
        typer.echo(f"try it   {shlex.join(line)}")


def _check_processes(recipe: Preset, num_processes: int, *, sharded: bool) -> None:
    """Refuse what processes cannot share before any is started."""
    from piflow_cli.engine.plan.batches import micro_batches
    from piflow_cli.engine.processes.sharded import check_sharding

    check_sharding(recipe, sharded=sharded)
    if num_processes > 1:
        micro_batches(recipe, num_processes)


def _train(recipe: Preset, *, out: Path, device: str, resume: bool, stop_after: int | None) -> DistillResult:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if _reports():
        console.note(f"distilling {recipe.teacher.source} by {recipe.name} into {out}")
    with console.progress() as line:
        if _reports():
            line.busy("loading libraries")
        from piflow_cli.engine.distill import distill

        options = {"device": device, "resume": resume, "stop_after": stop_after}
        result = distill(recipe, out=out, on_event=lambda event: show(event, line), **options)
    if _reports():
        console.note(f"{result.step} steps in {duration(result.wall_s)}, {result.skipped} skipped")
    return result


def _reports() -> bool:
    """Whether this process speaks: under `accelerate launch` the first one does."""
    return os.environ.get("RANK", "0") == "0"
