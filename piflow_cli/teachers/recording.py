"""Listening in on a pipeline: what its network is called with, and the steps that its scheduler goes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@contextmanager
def recorded_calls(module: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """Within the context the list gets the arguments of every call of a module, by their names."""
    calls: list[dict[str, Any]] = []
    signature = inspect.signature(module.forward)

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        calls.append(dict(bound.arguments))

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@dataclass(frozen=True)
class SchedulerStep:
    """A step of a scheduler of diffusers: what the network gave, where it was, and where it went."""

    output: Tensor
    timestep: Tensor
    sample: Tensor
    next_sample: Tensor


@contextmanager
def recorded_steps(scheduler: Any) -> Iterator[list[SchedulerStep]]:
    """Within the context the list gets every step of a scheduler."""
    steps: list[SchedulerStep] = []
    step = scheduler.step

    def note(output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = step(output, timestep, sample, *args, **kwargs)
        after = result[0] if isinstance(result, tuple) else result.prev_sample
        steps.append(SchedulerStep(output.clone(), timestep, sample.clone(), after.clone()))
        return result

    scheduler.step = note
    try:
        yield steps
    finally:
        del scheduler.step
