# How long the emoji networks are trained and at which rates: warm-up, stable, decay, over any number of resumptions.

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, whatever the budget.

    `decay_share` is the last part of the run, in which the learning rates fall to 0 linearly; `ema_gamma` the exponent
    of the power-function average, which is a copy during the warm-up.
    """

    muon_lr: float
    adam_lr: float
    seed: int
    batch_size: int
    warmup_steps: int = 100
    decay_share: float = 0.25
    weight_decay: float = 0.01
    ema_gamma: float = 16.0
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Budget:
    """When to end: after so many steps or hours of training, over all its resumptions, or as soon as decayed.

    Exactly one of `steps` and `hours` is set; `finish` starts the decay now.
    """

    steps: int | None = None
    hours: float | None = None
    finish: bool = False


@dataclass(frozen=True)
class Progress:
    """Where a run is. `decay_steps` is 0 until the decay has begun."""

    step: int = 0
    spent_s: float = 0.0
    decay_from: int = 0
    decay_steps: int = 0

    @property
    def decaying(self) -> bool:
        """Whether the learning rates fall already."""
        return self.decay_steps > 0

    @property
    def done(self) -> bool:
        """Whether they have reached 0."""
        return self.decaying and self.step >= self.decay_from + self.decay_steps

    def rate_factor(self, warmup_steps: int) -> float:
        """What the learning rates are multiplied by in the next step: up to 1, stay, down to 0."""
        factor = min(1.0, (self.step + 1) / max(warmup_steps, 1))
        if self.decaying:
            factor *= max(0.0, 1 - (self.step - self.decay_from) / self.decay_steps)
        return factor

    def begin_decay(self, budget: Budget, share: float) -> "Progress":
        """Itself, or where the stable part is over, with the decay set to begin now."""
        if self.decaying:
            return self
        if budget.finish:
            due, length = True, self.step * share / (1 - share)
        elif budget.steps is not None:
            due, length = self.step >= budget.steps * (1 - share), budget.steps - self.step
        else:
            assert budget.hours is not None, "a budget has steps or hours"
            whole_s = budget.hours * 3600
            due = self.spent_s >= whole_s * (1 - share) and self.step > 0
            length = self.step / self.spent_s * whole_s * share if due else 0
        return replace(self, decay_from=self.step, decay_steps=max(1, round(length))) if due else self

    def left_s(self, budget: Budget) -> float:
        """Seconds to the end at the speed so far."""
        rate = self.step / max(self.spent_s, 1e-9)
        if self.decaying:
            return (self.decay_from + self.decay_steps - self.step) / rate
        if budget.steps is not None:
            return (budget.steps - self.step) / rate
        return (budget.hours or 0.0) * 3600 - self.spent_s
