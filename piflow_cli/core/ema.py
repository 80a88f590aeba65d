"""Exponential moving average of the trainable parameters with the power-function schedule (EDM2, arXiv 2312.02696)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Averages of named parameters, in float32, on the parameters' own device.

    Args:
        parameters: the (name, parameter) pairs to follow.
        gamma: exponent of the power-function profile; beta = (1 - 1/t)^(gamma + 1), 7 is the recipe.
        warmup_steps: until then the average is a copy.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], *, gamma: float, warmup_steps: int = 0) -> None:
        self.gamma, self.warmup_steps = gamma, warmup_steps
        self.parameters = dict(parameters)
        self.averages = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    def beta(self, step: int) -> float:
        """Weight of the old average at optimiser step `step`, counted from 1."""
        if step <= max(self.warmup_steps, 1):
            return 0.0
        return (1 - 1 / step) ** (self.gamma + 1)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the parameters after optimiser step `step`, counted from 1."""
        weight = 1 - self.beta(step)
        targets = [p.detach().float() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), targets, weight)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name."""
        return self.averages

    @torch.no_grad()
    def load_state_dict(self, averages: dict[str, Tensor]) -> None:
        """Copy the averages in; names and shapes must be those of the parameters."""
        for name, average in self.averages.items():
            average.copy_(averages[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the parameters hold the averages."""
        backup = {name: p.detach().clone() for name, p in self.parameters.items()}
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(self.averages[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.parameters.items():
                    p.copy_(backup[name])
