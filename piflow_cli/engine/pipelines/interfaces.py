"""What the loop and the files of the pipelines ask of a pipeline: so they need not import its class."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from piflow_cli.engine.students.load import LoadedStudent


class RunsLoop(Protocol):
    """A pipeline of diffusers as its sampling loop sees it."""

    _num_timesteps: int
    _current_timestep: Tensor | None

    @property
    def interrupt(self) -> bool:
        """Whether to leave out the evaluations that are left."""
        ...

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """A progress bar as a context, shown as the user configured it."""
        ...


class HoldsStudent(Protocol):
    """A pipeline of diffusers as its student's files see it."""

    student: LoadedStudent | None
    vae: nn.Module | None

    @property
    def components(self) -> dict[str, Any]:
        """The pipeline's parts by name."""
        ...
