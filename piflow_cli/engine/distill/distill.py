"""Distilling a teacher into a student: the use case; the loop is in `trainer.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from piflow_cli.engine.distill.events import DistillEvent, DistillResult
from piflow_cli.engine.distill.run_folder import RunFolder
from piflow_cli.engine.distill.trainer import Trainer
from piflow_cli.engine.plan.plan import run_bytes
from piflow_cli.engine.students.device import resolve_device
from piflow_cli.preset import Preset


def distill(
    preset: Preset,
    *,
    out: Path | str,
    device: str = "auto",
    resume: bool = True,
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
        on_event: called in the main process with what happens.

    Raises:
        StorageError: `out` cannot be used.
        ModelError, DataError, DeviceError, MissingExtraError: what the preset names cannot be had.
        TrainingError: too many non-finite steps in a row.
    """
    from accelerate import PartialState

    target = resolve_device(device)
    preset.data.check_source()
    preset.teacher.check_source()
    run = RunFolder(Path(out))
    with PartialState(cpu=target.type == "cpu").main_process_first():  # it makes what the others then find
        start = run.open(preset, resume=resume, needed_bytes=run_bytes(preset))
    trainer = Trainer(preset, run, device=target, on_event=on_event)
    return trainer.train(start)
