"""What a run must remember besides its weights, and what moves them: counters, draws, optimisers and schedules."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from piflow_cli.core.interfaces import DataSource
from piflow_cli.data.loading import Loader
from piflow_cli.errors import MissingExtraError, TrainingError
from piflow_cli.preset import OptimizerSettings, TrainingSettings

COUNTERS = ("step", "updates", "skipped", "bad_in_a_row")
MUON_MOMENTUM = 0.95


class Progress:
    """Counters, saved with every checkpoint, and the random draws.

    The draws of a micro-batch depend on the seed, the step and its place in the batch alone: a resumed run needs no
    random state, no two processes share draws, and the same micro-batches on more or fewer processes draw the same.

    Args:
        seed: of the run.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed
        self.generator = torch.Generator()
        self.step = 0
        self.updates = 0
        self.skipped = 0
        self.bad_in_a_row = 0

    def begin_micro_batch(self, index: int) -> None:
        """Seed the draws of a micro-batch of the next step, and torch's own generators, which dropout draws from.

        Args:
            index: of the micro-batch in the whole batch, over all processes.
        """
        seed = self._seed(f"{self.seed}/{index}/{self.step}")
        self.generator.manual_seed(seed)
        torch.manual_seed(seed)

    def data_seed(self, step: int, index: int) -> int:
        """Seed of what is read for a micro-batch: it may be read before its step begins, in any process."""
        return self._seed(f"{self.seed}/{index}/{step}/data")

    @staticmethod
    def _seed(words: str) -> int:
        return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) >> 1

    def draws(self) -> str:
        """A digest of the generators as they are: equal where the same was drawn."""
        states = self.generator.get_state().numpy().tobytes() + torch.get_rng_state().numpy().tobytes()
        return hashlib.sha256(states).hexdigest()[:16]

    def state_dict(self) -> dict[str, int]:
        """The counters."""
        return {name: getattr(self, name) for name in COUNTERS}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore what `state_dict` gave."""
        for name in COUNTERS:
            setattr(self, name, int(state[name]))


def diverged(progress: Progress, loss: float, gradient_norm: float, *, kept: int) -> TrainingError:
    """The error that ends a run after too many non-finite steps in a row.

    Args:
        progress: of the run.
        loss, gradient_norm: of the last step.
        kept: step of the newest checkpoint.
    """
    return TrainingError(
        f"{progress.bad_in_a_row} steps in a row had a non-finite loss or gradient (last: loss {loss}, "
        f"gradient norm {gradient_norm}, step {progress.step}). The checkpoint of step {kept} is kept. "
        "Lower optimizer.learning_rate, or raise objective.window_substeps or optimizer.warmup_steps."
    )


def read_ahead(
    source: DataSource,
    progress: Progress,
    settings: TrainingSettings,
    *,
    batch_size: int,
    micro_batches: int,
    process: int,
    on_read: Callable[[], None] = lambda: None,
) -> Loader:
    """The micro-batches of one process, in order.

    Args:
        source: what is drawn from.
        progress: whose seeds decide every draw.
        settings: steps, and processes that read.
        batch_size: samples of a micro-batch.
        micro_batches: of a step on each process.
        process: index of this one.
        on_read: called after each micro-batch.
    """
    return Loader(
        source,
        batch_size=batch_size,
        micro_batches=micro_batches,
        steps=settings.steps,
        seed_of=lambda step, micro: progress.data_seed(step, process * micro_batches + micro),
        workers=settings.data_workers,
        on_read=on_read,
    )


def build_optimizers(
    student: nn.Module, settings: OptimizerSettings, *, device: torch.device, sharded: bool = False
) -> list[torch.optim.Optimizer]:
    """The optimisers of the trainable parameters: AdamW, and before it Muon for the blocks' matrices if asked for.

    Args:
        sharded: whether parameters will be sharded, which bitsandbytes does not take; `auto` is then AdamW.

    Raises:
        MissingExtraError: 8-bit AdamW was asked for and bitsandbytes is not installed.
    """
    named_so = settings.name in ("adamw8bit", "paged-adamw8bit")
    eight_bit = named_so or (settings.name == "auto" and device.type == "cuda" and not sharded)
    named = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
    if settings.name != "muon":
        return [_adamw([p for _, p in named], settings, eight_bit=eight_bit)]
    matrices = [p for name, p in named if _is_block_matrix(name, p)]
    others = [p for name, p in named if not _is_block_matrix(name, p)]
    options = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "momentum": MUON_MOMENTUM}
    muon = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **options)
    return [muon, _adamw(others, settings, eight_bit=False)]


def _is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon is meant for it: the matrices inside the blocks, no embeddings and no output layers."""
    return parameter.ndim == 2 and "blocks." in name and ".emb." not in name


def _adamw(parameters: list[nn.Parameter], settings: OptimizerSettings, *, eight_bit: bool) -> torch.optim.Optimizer:
    """AdamW, 8-bit where wanted and, unless it was asked for by name, where bitsandbytes is installed."""
    options = {"lr": settings.learning_rate, "betas": settings.betas, "weight_decay": settings.weight_decay}
    if eight_bit:
        try:
            from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

            return (PagedAdamW8bit if settings.name == "paged-adamw8bit" else AdamW8bit)(parameters, **options)
        except ImportError:
            if settings.name != "auto":
                raise MissingExtraError(
                    f"optimizer.name {settings.name} needs bitsandbytes: pip install 'piflow[bitsandbytes]', or use "
                    "adamw"
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
