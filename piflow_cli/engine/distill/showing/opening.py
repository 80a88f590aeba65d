"""The first lines of a run: who trains what on how much, and where to look while it does."""

from __future__ import annotations

from piflow_cli.core.interfaces import DataSource
from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.engine.distill.showing.best import BEST
from piflow_cli.formats.run import PREVIEWS, REPORT, VALIDATION
from piflow_cli.preset import Preset


def first_lines(preset: Preset, run: RunFolder, data: DataSource) -> list[str]:
    """What is trained on, and where and how often previews and checkpoints are to be found, a line each."""
    training = preset.training
    epochs = f"{training.steps:,} steps of {training.batch_size:,}"
    lines = [f"data       {data.contents}; {epochs}"]
    if training.preview_every:
        lines.append(f"previews   {run / PREVIEWS}, every {_steps(training.preview_every)}")
    if preset.validation.every:
        lines.append(
            f"validation {run / VALIDATION}, every {_steps(preset.validation.every)}; the best in {run / BEST}"
        )
    lines.append(f"saved      {run.checkpoints.folder}, every {_steps(training.checkpoint_every)}")
    lines.append(f"report     {run / REPORT}, with each of these")
    return lines


def _steps(count: int) -> str:
    return "step" if count == 1 else f"{count:,} steps"
