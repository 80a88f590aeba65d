"""What the files here know of a pipeline without importing its class, and of the student that a module belongs to."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

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


@dataclass
class Held:
    """A student, as its module carries it along: so that the components of a pipeline make another one.

    Args:
        student: whose network's module carries this.
    """

    student: LoadedStudent

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The student of a copied module, over the same encoders and autoencoder."""
        network, space = copy.deepcopy(self.student.network, memo), copy.copy(self.student.space)
        return type(self)(replace(self.student, network=network, space=space))


def hold(student: LoadedStudent) -> None:
    """Let the student's module carry it along."""
    student.network.module._piflow_held = Held(student)


def held_by(module: nn.Module | None) -> LoadedStudent | None:
    """The student that a module, compiled or not, belongs to."""
    held = getattr(getattr(module, "_orig_mod", module), "_piflow_held", None)
    return held.student if isinstance(held, Held) else None
