"""Batches of a source in the order of training, read ahead of it by processes of their own (torch's DataLoader).

What a batch holds depends on its seed alone: the same draws come out whatever the number of processes, and wherever
a run begins. Planning and encoding stay in the training process; reading and decoding are what moves out.
"""

import atexit
import hashlib
import signal
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from piflow_cli.core.interfaces import Condition, DataSource, Draw, Reader, Space
from piflow_cli.errors import DataError, PiflowError

PREFETCH = 2
"""Batches that each process reads ahead."""
DEAD_READER = "DataLoader worker (pid"
"""What torch says of a process that has died."""


class Loaded(NamedTuple):
    """A micro-batch: latents (B, C, *S) or None, conditions as `Space.conditions` takes them, and width and height."""

    latents: Tensor | None
    condition: Condition
    size_px: tuple[int, int] | None

    def shape(self, space: Space, *, batch_size: int) -> tuple[int, ...]:
        """(B, C, *S) of its states; without latents they are of `batch_size` samples."""
        if self.latents is not None:
            return tuple(self.latents.shape)
        shape = space.latent_shape if self.size_px is None else space.latent_shape_of(*self.size_px)
        return (batch_size, *shape)


class Loader:
    """Micro-batches of a source, meant to be asked for in order, within the context: leaving it ends the processes.

    A process that dies is told of by a RuntimeError wherever the training process just is, as torch has it; the context
    turns that into a DataError.

    Args:
        source: what is drawn from; only its reader leaves this process.
        batch_size: B, samples of a micro-batch.
        micro_batches: of a step.
        steps: where reading ahead ends.
        seed_of: (step, micro-batch) -> seed of all that is drawn for it.
        workers: processes that read; 0 reads here, as does a source that reads too little to be worth them.
        on_read: called after each micro-batch.
    """

    def __init__(
        self,
        source: DataSource,
        *,
        batch_size: int,
        micro_batches: int,
        steps: int,
        seed_of: Callable[[int, int], int],
        workers: int = 0,
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        self.source, self.batch_size, self.micro_batches, self.steps = source, batch_size, micro_batches, steps
        self.on_read = on_read
        self.seed_of, self.workers = seed_of, workers if source.reads_files else 0
        self.drawn: list[Draw] = []
        self._next: tuple[int, int] | None = None
        self._planned: deque[tuple[tuple[int, int] | None, Draw]] = deque()
        self._readings: Iterator[Any] = iter(())
        self._processes: list[BaseProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.close()
        if isinstance(error, RuntimeError) and DEAD_READER in str(error):
            raise _death(error) from None

    def batch(self, step: int, micro: int = 0) -> Loaded:
        """A micro-batch; out of order, as when a run goes on, reading begins anew there.

        Raises:
            DataError: it cannot be read, or a process that reads has died.
            IndexError: there is no such step or micro-batch.
        """
        if not (0 <= step < self.steps and 0 <= micro < self.micro_batches):
            raise IndexError(f"micro-batch {micro} of step {step}: there are {self.micro_batches} of {self.steps}")
        if (step, micro) != self._next:
            self._begin(step, micro)
        reading = self._read()
        size_px, draw = self._planned.popleft()
        self.drawn = [*(self.drawn if micro else ()), draw]
        self._next = (step, micro + 1) if micro + 1 < self.micro_batches else (step + 1, 0)
        loaded = Loaded(*self.source.encode(reading), size_px)
        self.on_read()
        return loaded

    def step(self, step: int, space: Space) -> list[Loaded]:
        """All micro-batches of a step; offloaded text encoders go to the device once for all of them.

        Raises: as `batch`.
        """
        loaded = [self.batch(step, micro) for micro in range(self.micro_batches)]
        conditions = space.encoded([batch.condition for batch in loaded])
        return [batch._replace(condition=condition) for batch, condition in zip(loaded, conditions, strict=True)]

    def digests(self) -> tuple[str, ...]:
        """What each micro-batch of the last step held, in few letters: equal where the same was drawn."""
        return tuple(hashlib.sha256(repr(draw).encode()).hexdigest()[:16] for draw in self.drawn)

    def close(self) -> None:
        """End the processes, those too that are stuck in a read; the interpreter would wait for them for ever."""
        if self._processes:
            self._readings._shutdown_workers()  # an error's traceback may hold the iterator, which ends with them
            for process in self._processes:
                process.kill()
                process.join()
            self._processes = []
            atexit.unregister(self.close)
        self._readings, self._next = iter(()), None
        self._planned.clear()

    def _begin(self, step: int, micro: int) -> None:
        self.close()
        draws = self._draws(step, micro)
        if self.workers == 0:
            self._readings = map(_Readings(self.source.reader).__getitem__, draws)
            return
        loader = DataLoader(
            _Readings(self.source.reader),
            batch_size=None,
            sampler=draws,
            num_workers=self.workers,
            prefetch_factor=PREFETCH,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_signals_to_the_trainer,
        )
        others = active_children()
        self._readings = iter(loader)
        self._processes = [process for process in active_children() if process not in others]
        atexit.register(self.close)

    def _draws(self, step: int, micro: int) -> Iterator[Draw]:
        """What every micro-batch from here on is to be, kept until it has been read."""
        first = step * self.micro_batches + micro
        for number in range(first, self.steps * self.micro_batches):
            generator = torch.Generator().manual_seed(self.seed_of(*divmod(number, self.micro_batches)))
            size_px = self.source.draw_size(generator)
            draw = self.source.plan(self.batch_size, generator, size_px=size_px)
            self._planned.append((size_px, draw))
            yield draw

    def _read(self) -> Any:
        try:
            reading = next(self._readings)
        except RuntimeError as error:
            if DEAD_READER not in str(error):
                raise
            self.close()
            raise _death(error) from None
        if isinstance(reading, _Failure):
            self.close()
            raise reading.error
        return reading


def _death(error: RuntimeError) -> DataError:
    return DataError(
        f"a process that reads data has died: {error} Where memory ran out (in a container shared memory, such as "
        "docker's --shm-size), lower training.data_workers; 0 reads in the training process."
    )


class _Failure(NamedTuple):
    """A known error on its way to the training process, which DataLoader would wrap into a traceback."""

    error: PiflowError


@dataclass(frozen=True)
class _Readings(Dataset):
    """What a reader gives, by draw."""

    reader: Reader

    def __getitem__(self, draw: Draw) -> Any:
        try:
            return self.reader.read(draw)
        except PiflowError as error:
            return _Failure(error)


def _as_it_is(reading: Any) -> Any:
    return reading


def _leave_signals_to_the_trainer(_worker: int) -> None:
    """These reach the whole group of processes, or all of a job; the trainer saves, and then ends its readers."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], signal.SIG_IGN)
