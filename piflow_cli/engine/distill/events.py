"""What a distillation tells while it runs, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class DistillEvent:
    """What happened in a run: a step, a file written, a step skipped; while caching, steps are prompts."""

    kind: Literal["caching", "start", "step", "checkpoint", "preview", "skipped", "left out", "done"]
    step: int
    steps: int
    loss: float | None = None
    learning_rate: float | None = None
    images_per_s: float | None = None
    remaining_s: float | None = None
    path: Path | None = None
    message: str = ""


@dataclass(frozen=True)
class DistillResult:
    """How a run ended; `student` is its folder, written also where the run was interrupted."""

    student: Path | None
    out: Path
    step: int
    steps: int
    interrupted: bool
    skipped: int
    wall_s: float
    loss: float | None
