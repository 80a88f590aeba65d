"""Distilling a teacher into a student: the use case; the loop is in `trainer.py`."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from piflow_cli.engine.distill.events import DistillEvent, DistillResult
from piflow_cli.engine.distill.initial import check_init
from piflow_cli.engine.distill.network import resolve_strategy
from piflow_cli.engine.distill.resume.environment import environment_of
from piflow_cli.engine.distill.resume.run_folder import RunFolder, Start
from piflow_cli.engine.distill.resume.sources import digests_of_sources
from piflow_cli.engine.distill.trainer import Trainer
from piflow_cli.engine.plan.checks import check_at_once
from piflow_cli.engine.plan.plan import run_bytes
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.processes.world import World, asked_strategy, end_with_launcher, settle_device
from piflow_cli.engine.students.device import resolve_device
from piflow_cli.errors import StorageError
from piflow_cli.formats.run import PRESET
from piflow_cli.preset import Preset


def distill(
    preset: Preset,
    *,
    out: Path | str,
    device: str = "auto",
    resume: bool = True,
    stop_after: int | None = None,
    on_event: Callable[[DistillEvent], None] | None = None,
) -> DistillResult:
    """Train a student by a preset and leave it, with all that made it, in a run folder.

    A run that was stopped, by Ctrl-C, SIGTERM or a crash, goes on from its newest checkpoint when called again and ends
    in the same student as an uninterrupted one (bitwise on a CPU).

    Args:
        preset: the recipe.
        out: the run's folder.
        device: auto, cpu, cuda, cuda:N or mps; under `accelerate launch` each process takes its own.
        resume: False refuses a folder that holds a run.
        stop_after: step at which to save and stop, as if asked to.
        on_event: called in the main process with what happens.

    Raises:
        StorageError: `out` cannot be used.
        ModelError, DataError, DeviceError, MissingExtraError: what the preset names cannot be had.
        TrainingError: too many non-finite steps in a row.
    """
    from accelerate import PartialState

    target, asked = resolve_device(device), asked_strategy()
    world = World.here()
    settle_device(target, world)
    end_with_launcher()
    run = RunFolder(Path(out))
    patience = timedelta(seconds=preset.training.exchange_timeout_s)
    state = PartialState(cpu=target.type == "cpu", **({"timeout": patience} if world.size > 1 else {}))
    if on_event is not None and state.is_main_process:
        on_event(DistillEvent("busy", 0, preset.training.steps, message="checking what the preset names"))
    together = Together(num_processes=state.num_processes, index=state.process_index, patience=patience)
    together.each_does(lambda: check_at_once(preset))
    start = together.main_does(lambda: _open(run, preset, resume=resume))
    try:
        together.raise_any(_unshared(run))
        strategy = resolve_strategy(asked, preset, device=target, num_processes=world.size)
        trainer = Trainer(
            preset, run, start=start, together=together, device=target, strategy=strategy, on_event=on_event
        )
        together.main_does(lambda: _note_start(trainer))
        result = _noting_step(trainer, stop_after) if world.size > 1 else trainer.train(stop_after=stop_after)
    finally:
        run.close()
    together.leave()
    return result


def _note_start(trainer: Trainer) -> None:
    """Write down where and how the run is started, and from which step."""
    shares = (trainer.together.num_processes, trainer.micro_batch, trainer.accumulation)
    found = environment_of(trainer.device, run=trainer.network.describe(*shares), data=trainer.data.contents)
    trainer.run.note_start({"environment": found}, step=trainer.start.step)


def _noting_step(trainer: Trainer, stop_after: int | None) -> DistillResult:
    """Train, and note with an error of this process the step that it was in."""
    try:
        return trainer.train(stop_after=stop_after)
    except Exception as error:
        error.add_note(f"in step {trainer.progress.step + 1}")
        raise


def _open(run: RunFolder, preset: Preset, *, resume: bool) -> Start:
    if not run.checkpoints.newest_step():
        check_init(preset)
    sources = digests_of_sources(preset)
    return run.open(preset, sources=sources, resume=resume, needed_bytes=run_bytes(preset))


def _unshared(run: RunFolder) -> StorageError | None:
    """The error of a process that does not see the run's folder as the main process has made it."""
    if (run / PRESET).is_file():
        return None
    return StorageError(
        f"process {os.environ.get('RANK', '?')} on {socket.gethostname()} does not see {run.path}, which the main "
        "process has made: several machines need an --out on a disk that all of them share"
    )
