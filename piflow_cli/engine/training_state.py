"""What a run must remember besides its weights, and what moves them: counters, random state, optimiser and schedule."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from piflow_cli.errors import MissingExtraError
from piflow_cli.preset import OptimizerSettings


class Progress:
    """Counters and the random state of one process; saved with every checkpoint.

    Args:
        seed: of the process's draws.
    """

    def __init__(self, *, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.updates = 0
        self.skipped = 0
        self.bad_in_a_row = 0

    def state_dict(self) -> dict[str, Any]:
        """Counters, and the generator's state as a uint8 tensor."""
        counters = {name: getattr(self, name) for name in ("step", "updates", "skipped", "bad_in_a_row")}
        return {**counters, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.generator.set_state(state["generator"].cpu())
        for name in ("step", "updates", "skipped", "bad_in_a_row"):
            setattr(self, name, int(state[name]))


def build_optimizer(student: nn.Module, settings: OptimizerSettings, *, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters, 8-bit where asked for or where `auto` finds it.

    Raises:
        MissingExtraError: 8-bit AdamW was asked for and bitsandbytes is not installed.
    """
    parameters = [p for p in student.parameters() if p.requires_grad]
    options = {"lr": settings.learning_rate, "betas": settings.betas, "weight_decay": settings.weight_decay}
    if settings.name == "adamw8bit" or (settings.name == "auto" and device.type == "cuda"):
        try:
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit(parameters, **options)
        except ImportError:
            if settings.name == "adamw8bit":
                raise MissingExtraError(
                    "optimizer.name adamw8bit needs bitsandbytes: pip install 'piflow[bitsandbytes]', or use adamw"
                ) from None
    return torch.optim.AdamW(parameters, **options)


def build_scheduler(optimizer: torch.optim.Optimizer, settings: OptimizerSettings, *, steps: int) -> LambdaLR:
    """Linear warm-up, then a constant rate or a cosine to zero at `steps`."""

    def factor(step: int) -> float:
        warm = min((step + 1) / settings.warmup_steps, 1.0) if settings.warmup_steps else 1.0
        if settings.decay == "constant" or step < settings.warmup_steps:
            return warm
        part = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))

    return LambdaLR(optimizer, factor)
