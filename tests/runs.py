"""Comparing runs, and stopping one in the middle."""

import os
import signal
from collections.abc import Callable

import torch

from piflow_cli.engine.distill.events import DistillEvent


def assert_same(a: object, b: object) -> None:
    """Equality of nested values, tensors bitwise."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    else:
        assert a == b


def stop_at(step: int) -> Callable[[DistillEvent], None]:
    """A listener that asks the process to stop, as Ctrl-C does, once a step is done."""

    def listen(event: DistillEvent) -> None:
        if event.kind == "step" and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return listen
