"""What training depends on, as tensors by name and a card: taken from a run, put back into one, read without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from piflow_cli.core.ema import EMA
from piflow_cli.engine.distill.resume.checkpoints import CheckpointCard, Schedule
from piflow_cli.engine.distill.state import Progress
from piflow_cli.engine.processes.precision import Precision
from piflow_cli.engine.processes.together import Together
from piflow_cli.errors import StorageError
from piflow_cli.formats.checkpoint import AVERAGE
from piflow_cli.io.tensors.distributed import load_tensors, read_tensors, stored_tensors

WEIGHTS, OPTIMIZER = "weights.", "optimizer."


class Snapshot:
    """The parts of a run that a checkpoint holds.

    Args:
        own: the student's own weights by the names they are stored under.
        ema: their average.
        optimizers, schedulers: of the own weights, one scheduler an optimiser.
        progress: counters.
        precision: of the passes: its loss scale.
    """

    def __init__(
        self,
        own: Mapping[str, nn.Parameter],
        ema: EMA,
        *,
        optimizers: Sequence[torch.optim.Optimizer],
        schedulers: Sequence[LambdaLR],
        progress: Progress,
        precision: Precision,
    ) -> None:
        self.own, self.ema, self.progress, self.precision = dict(own), ema, progress, precision
        self.optimizers, self.schedulers = optimizers, schedulers
        self.names = {id(parameter): name for name, parameter in self.own.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights, averages and the optimisers' moments by name: a process's shards where they are sharded."""
        found = {WEIGHTS + name: parameter.detach() for name, parameter in self.own.items()}
        found |= {AVERAGE + name: average for name, average in self.ema.averages.items()}
        for i, optimizer in enumerate(self.optimizers):
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    found[f"{OPTIMIZER}{i}.{key}.{self.names[id(parameter)]}"] = _as_tensor(value)
        return found

    def card(
        self,
        *,
        together: Together,
        sharded: bool,
        micro_batch_size: int,
        teacher_ratio: float,
        data: tuple[str, ...],
    ) -> CheckpointCard:
        """What is not a tensor, as it is now; the names of the files are for the writer to add.

        Args:
            together: the processes.
            sharded: whether each holds a part of the weights.
            micro_batch_size: samples of a pass.
            teacher_ratio: of the next step.
            data: digests of what this process's micro-batches held in the step.
        """
        shares = together.gather((data, self.progress.draws()))
        return CheckpointCard(
            step=self.progress.step,
            counters=self.progress.state_dict(),
            schedules=self.schedules(),
            scaler=self.precision.state_dict(),
            num_processes=together.num_processes,
            sharded=sharded,
            micro_batch_size=micro_batch_size,
            teacher_ratio=teacher_ratio,
            data=tuple(digest for share, _ in shares for digest in share),
            draws=tuple(draws for _, draws in shares),
            files=(),
        )

    def schedules(self) -> tuple[Schedule, ...]:
        """Where the learning rates are."""
        return tuple(Schedule(step=s.last_epoch, rates=tuple(map(float, s.get_last_lr()))) for s in self.schedulers)

    def load(self, folder: Path, card: CheckpointCard, *, group: ProcessGroup | None) -> None:
        """Put the tensors of a checkpoint, and what its card says, in their places.

        Tensors that were written in other parts than they are now in, by more or fewer processes, are put together.
        The learning rate is the preset's at the step that was reached.

        Args:
            folder: a checkpoint that is whole.
            card: its card.
            group: for what processes say to each other; None on one.

        Raises:
            StorageError: it is of another student, or of other optimisers.
        """
        stored = stored_tensors(folder)
        targets = {WEIGHTS + name: parameter.detach() for name, parameter in self.own.items()}
        targets |= {AVERAGE + name: average for name, average in self.ema.averages.items()}
        moments = [self._empty_moments(i, stored) for i in range(len(self.optimizers))]
        for i, states in enumerate(moments):
            targets |= {f"{OPTIMIZER}{i}.{key}.{n}": t for n, state in states.items() for key, t in state.items()}
        _check_fit(folder, targets, stored)
        load_tensors(targets, folder, group=group)
        for optimizer, states in zip(self.optimizers, moments, strict=True):
            self._fill_optimizer(optimizer, states)
        for optimizer, scheduler, schedule in zip(self.optimizers, self.schedulers, card.schedules, strict=True):
            go_to_step(optimizer, scheduler, schedule.step)
        if card.scaler is not None:
            self.precision.load_state_dict(card.scaler)
        self.progress.load_state_dict(card.counters)

    def _empty_moments(self, index: int, stored: Mapping[str, TensorStorageMetadata]) -> dict[str, dict[str, Tensor]]:
        """Tensors to read an optimiser's moments into, by parameter and key, sharded as the parameters are."""
        prefix, found = f"{OPTIMIZER}{index}.", {}
        for full_name, facts in stored.items():
            if not full_name.startswith(prefix):
                continue
            key, _, name = full_name.removeprefix(prefix).partition(".")
            parameter = self.own.get(name)
            if isinstance(parameter, DTensor) and parameter.shape == facts.size:
                tensor = torch.empty_like(parameter.detach(), dtype=facts.properties.dtype)
            else:
                tensor = torch.empty(facts.size, dtype=facts.properties.dtype)
            found.setdefault(name, {})[key] = tensor
        return found

    def _fill_optimizer(self, optimizer: torch.optim.Optimizer, states: Mapping[str, dict[str, Tensor]]) -> None:
        """Give an optimiser its moments; its settings stay the preset's."""
        names = [self.names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        numbered = {
            i: {key: _as_held(tensor) for key, tensor in states[name].items()}
            for i, name in enumerate(names)
            if name in states
        }
        optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})


def _as_tensor(value: Tensor | float) -> Tensor:
    """A moment as it is stored: numbers, which bitsandbytes counts its steps by, in 64 bits."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def _as_held(tensor: Tensor) -> Tensor | float:
    """What `_as_tensor` was given: torch's own optimisers hold no single numbers of 64 bits."""
    return tensor.item() if tensor.ndim == 0 and tensor.dtype in (torch.int64, torch.float64) else tensor


def go_to_step(optimizer: torch.optim.Optimizer, scheduler: LambdaLR, step: int) -> None:
    """Put a learning rate where its course is after `step` steps."""
    factors = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [base * factor(step) for base, factor in factors]
    place = {"last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
    scheduler.load_state_dict(scheduler.state_dict() | place)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def read_average(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint, which are its student's: whole, on the CPU, by their stored names."""
    return {name.removeprefix(AVERAGE): tensor for name, tensor in read_tensors(folder, AVERAGE).items()}


def _check_fit(folder: Path, targets: Mapping[str, Tensor], stored: Mapping[str, TensorStorageMetadata]) -> None:
    """Raise StorageError unless a checkpoint holds these tensors and no others, in these shapes."""
    problems = [f"lacks {name}" for name in targets if name not in stored]
    problems += [f"has {name}, which this student has not" for name in stored if name not in targets]
    problems += [
        f"{name} is {list(stored[name].size)}, needs {list(tensor.shape)}"
        for name, tensor in targets.items()
        if name in stored and stored[name].size != tensor.shape
    ]
    if problems:
        more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise StorageError(f"{folder} is of another student: {'; '.join(problems[:4])}{more}. Choose another --out.")
