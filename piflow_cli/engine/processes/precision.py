"""The precision of a student's passes, and the scale of the loss that float16 gradients need (arXiv 1710.03740)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
"""Steps without an overflow after which the scale doubles."""


@dataclass
class Precision:
    """What a student's passes are computed in, and the scale of its loss.

    torch's GradScaler keeps what it found of a process to itself; here all processes decide by the one gradient norm
    that they share, so that their scales never part.

    Args:
        name: no, bf16 or fp16.
        device: where passes are computed.
    """

    name: str
    device: torch.device
    scale: float = field(init=False)
    steps_since_overflow: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.scale = FIRST_SCALE if self.name == "fp16" else 1.0

    @property
    def dtype(self) -> torch.dtype | None:
        """What passes are computed in; None leaves it to the weights."""
        return AUTOCAST.get(self.name)

    def autocast(self) -> AbstractContextManager[None]:
        """What a pass of the network runs under."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, dtype=self.dtype)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call backward on."""
        return loss if self.scale == 1.0 else loss * self.scale

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take the scale out of the gradients; an overflow stays one."""
        if self.scale != 1.0:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(1 / self.scale)

    def advance(self, *, finite: bool) -> bool:
        """Lower the scale after an overflow, raise it after many steps without one.

        Args:
            finite: whether the gradient norm of the step was, over all processes.

        Returns:
            Whether a step that was not is the scale's doing: expected now and then, and mended by it.
        """
        if self.name != "fp16":
            return False
        if not finite:
            self.scale, self.steps_since_overflow = self.scale / 2, 0
            return self.scale >= 1.0
        self.steps_since_overflow += 1
        if self.steps_since_overflow >= GROWTH_INTERVAL:
            self.scale, self.steps_since_overflow = self.scale * 2, 0
        return False

    def state_dict(self) -> dict[str, float]:
        """The scale and its age."""
        return {"scale": self.scale, "steps_since_overflow": self.steps_since_overflow}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` gave."""
        self.scale, self.steps_since_overflow = float(state["scale"]), int(state["steps_since_overflow"])
