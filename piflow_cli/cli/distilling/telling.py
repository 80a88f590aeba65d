"""What `piflow distill` says while a run goes on: a line for what stays, a progress line for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piflow_cli.cli import console
from piflow_cli.io.texts.amounts import duration, pace

if TYPE_CHECKING:
    from piflow_cli.engine.distill.events import DistillEvent

FILES = ("checkpoint", "preview")
"""Kinds of events whose file is named."""


def show(event: DistillEvent, line: console.ProgressLine) -> None:
    """Say what happened, or what is being done."""
    if event.kind == "busy":
        line.busy(event.message)
    elif event.kind == "caching":
        done = f"{event.step}/{event.steps} {event.message} encoded"
        line.update(event.step, event.steps, done, then=f"encoding {event.message}")
    elif event.kind == "step":
        line.update(event.step, event.steps, words(event), then=f"taking step {event.step + 1}")
    elif event.kind == "estimate":
        line.say(
            f"time       about {duration(event.remaining_s)} for the {event.steps - event.step:,} steps to "
            f"come, at {pace(event.images_per_s)}"
        )
        if event.message:
            line.say(f"reached    {event.message}")
    elif event.kind in FILES:
        line.say(f"{event.kind:<10} {event.path}")
    elif event.kind == "validation":
        line.say(f"validation {event.path}: {event.message}")
    elif event.kind == "setting":
        line.say(event.message)
    elif event.kind == "warning":
        line.say(f"warning: {event.message}")
    elif event.message:
        line.say(f"step {event.step}: {event.message}")


def words(event: DistillEvent) -> str:
    """A step in one line."""
    peak = "" if event.utilisation is None else f"  {event.utilisation:.0%} of the peak"
    return (
        f"step {event.step}/{event.steps}  loss {event.loss:.4f}  lr {event.learning_rate:.2e}  "
        f"{pace(event.images_per_s)}{peak}  {duration(event.remaining_s)} left"
    )
