"""What the processes of a run decide together, over the CPU: one result, and one error that all of them raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

from piflow_cli.errors import PiflowError

T = TypeVar("T")


class Together:
    """The processes of a run; one process alone needs no group.

    Args:
        num_processes: of the run; torch.distributed is initialised where there are several.
        index: of this process; 0 is the main one.
    """

    def __init__(self, *, num_processes: int = 1, index: int = 0) -> None:
        self.num_processes, self.index = num_processes, index
        self.group = dist.new_group(backend="gloo") if num_processes > 1 else None
        # For a thread of its own: two threads that exchange over one group meet in another order on every process.
        self.background = dist.new_group(backend="gloo") if num_processes > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.index == 0

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

    def main_does(self, action: Callable[[], T]) -> T:
        """Let the main process act; all of them return its result, or raise its error."""
        result, error = None, None
        if self.is_main:
            try:
                result = action()
            except PiflowError as known:
                error = known
        result, error = self.gather((result, error))[0]
        if error is not None:
            raise error
        return result

    def raise_any(self, error: PiflowError | None) -> None:
        """Raise the first error that any process has, in all of them."""
        for found in self.gather(error):
            if found is not None:
                raise found

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """Which of the flags any process has set."""
        if self.group is None:
            return list(flags)
        counts = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(counts, group=self.group)
        return [bool(count) for count in counts]
