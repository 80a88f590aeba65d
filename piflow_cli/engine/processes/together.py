"""What the processes of a command decide together, over the CPU: one result, and one error that ends all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, zip_longest
from typing import TypeVar

import torch
import torch.distributed as dist

from piflow_cli.engine.processes.world import World, end_with_launcher, own_device
from piflow_cli.errors import PartnerError, PiflowError

T = TypeVar("T")
PATIENCE = timedelta(hours=12)
"""How long a process of a command that trains nothing waits: the main one may score, or read a large reference."""


class Together:
    """The processes of a command; one process alone needs no group.

    Args:
        num_processes: of the command; torch.distributed is initialised where there are several.
        index: of this process; 0 is the main one.
        patience: how long a process waits for the others, None as long as torch does (30 minutes).
    """

    def __init__(self, *, num_processes: int = 1, index: int = 0, patience: timedelta | None = None) -> None:
        self.num_processes, self.index = num_processes, index
        options = {"backend": "gloo", "timeout": patience}
        self.group = dist.new_group(**options) if num_processes > 1 else None
        # For a thread of its own: two threads that exchange over one group meet in another order on every process.
        self.background = dist.new_group(**options) if num_processes > 1 else None

    @property
    def world(self) -> World:
        """This process among all."""
        return World(rank=self.index, size=self.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.index == 0

    def takes(self, number: int) -> bool:
        """Whether a piece of work is this process's, where they take pieces in turn."""
        return number % self.num_processes == self.index

    def meet(self) -> None:
        """Wait for all processes."""
        if self.group is not None:
            dist.barrier(group=self.group)

    def leave(self) -> None:
        """Part, once all are done: threads of an exchange that outlive Python end a process by an abort."""
        if self.group is not None:
            dist.barrier(group=self.group)
            dist.destroy_process_group()

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order."""
        if self.group is None:
            return [value]
        found: list[T] = [value] * self.num_processes
        dist.all_gather_object(found, value, group=self.group)
        return found

    def collect(self, value: T) -> list[T]:
        """The values of all processes, in their order, in the main one; none in the others."""
        if self.group is None:
            return [value]
        found: list[T] = [value] * self.num_processes
        dist.gather_object(value, found if self.is_main else None, dst=0, group=self.group)
        return found if self.is_main else []

    def collect_in_turn(self, own: Sequence[T]) -> list[T]:
        """Pieces that processes took in turn, in their order, in the main one; none in the others."""
        missing = object()
        rounds = zip_longest(*self.collect(own), fillvalue=missing)
        return [piece for piece in chain.from_iterable(rounds) if piece is not missing]

    def main_does(self, action: Callable[[], T]) -> T:
        """Let the main process act; all of them return its result, or fail with it.

        Raises:
            PiflowError: the main process's; in the others a PartnerError.
        """
        result, error = self._try(action) if self.is_main else (None, None)
        if self.group is not None:
            told: list[tuple[T | None, str | None]] = [(result, None if error is None else str(error))]
            dist.broadcast_object_list(told, src=0, group=self.group)
            if not self.is_main:
                result, message = told[0]
                error = None if message is None else PartnerError(rank=0, message=message)
        if error is not None:
            raise error
        return result

    def each_does(self, action: Callable[[], T]) -> T:
        """Let every process act and return its own result; where one fails, all do, and one of them says why.

        Raises: as `raise_any`.
        """
        result, error = self._try(action)
        self.raise_any(error)
        return result

    def raise_any(self, error: PiflowError | None) -> None:
        """Fail in all processes where any has an error.

        Raises:
            PiflowError: this process's, where it is the first to have one; a PartnerError in the others.
        """
        messages = self.gather(None if error is None else str(error))
        rank = next((i for i, message in enumerate(messages) if message is not None), None)
        if rank is None:
            return
        if rank == self.index and error is not None:
            raise error
        raise PartnerError(rank=rank, message=messages[rank] or "")

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """Which of the flags any process has set."""
        if self.group is None:
            return list(flags)
        counts = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(counts, group=self.group)
        return [bool(count) for count in counts]

    @staticmethod
    def _try(action: Callable[[], T]) -> tuple[T | None, PiflowError | None]:
        try:
            return action(), None
        except PiflowError as known:
            return None, known


@contextmanager
def joined(device: str) -> Iterator[tuple[Together, str]]:
    """Within the context, the processes of a command that trains nothing, by whatever launcher, and this one's device.

    Args:
        device: as the user named it for all of them.

    Raises:
        DeviceError: as `World.here` and `own_device`.
    """
    world = World.here()
    own = own_device(device, world)
    if world.size == 1:
        yield Together(), own
        return
    end_with_launcher()
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        together = Together(num_processes=world.size, index=world.rank, patience=PATIENCE)
        yield together, own
        together.leave()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
