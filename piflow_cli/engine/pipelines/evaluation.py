"""One evaluation of a student inside a diffusers pipeline, however diffusers hooks and wraps its transformer.

Shapes: B batch, C latent channels, S spatial dims.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from piflow_cli.core.interfaces import Condition, Policy
from piflow_cli.core.student import Student
from piflow_cli.teachers.text.tokens import TextBackbone


def evaluate(
    network: Student,
    module: nn.Module,
    x: Tensor,
    sigma: Tensor,
    condition: Condition,
    *,
    arguments: Mapping[str, Any] | None = None,
    reading: TextBackbone | None = None,
) -> Policy:
    """The policy made at x (B, C, *S), sigma (B,), as `Student.policy` makes it.

    Args:
        network: the student.
        module: its module, which may be compiled.
        arguments: what the module is called with besides.
        reading: how what the head reads is read in the forward pass; None for modules that diffusers cannot offload in
            groups.
    """
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    backbone, called = network.backbone, CalledWith(module, dict(arguments)) if arguments else module
    if reading is not None and _is_group_offload_enabled(module):
        # weights leave the device with the forward pass, so the head reads inside it
        with _reading_inside(module.get_submodule(reading.embedding_name), network.head) as read:
            output = backbone.predict(called, x, sigma, condition)
        extra = None if read[0] is None else reading.embedded(read)
    else:
        output = backbone.predict(called, x, sigma, condition)
        extra = network.head.extra(backbone.embed(module, sigma, condition))
    return network.family.policy(output, extra, x, sigma)


@dataclass(frozen=True)
class CalledWith:
    """A module that is called with more arguments than its caller knows of.

    Args:
        module: what is called.
        arguments: the further ones.
    """

    module: nn.Module
    arguments: dict[str, Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns."""
        return self.module(*args, **kwargs, **self.arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@contextmanager
def _reading_inside(embedding: nn.Module, head: nn.Module) -> Iterator[list[Tensor | None]]:
    """Within the context every call of `head` puts into the list what it reads off the last output of `embedding`."""
    embedded, read = [], []
    handles = [
        embedding.register_forward_hook(lambda _module, _args, output: embedded.append(output)),
        head.register_forward_hook(lambda module, _args, _output: read.append(module.extra(embedded[-1]))),
    ]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()
