"""Data-free training: conditions only; the student's own rollouts from noise are its states (pi-Flow, algorithm 3)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from piflow_cli.core.interfaces import DataSource, Draw, Space
from piflow_cli.core.settings import Settings
from piflow_cli.errors import DataError


@dataclass(frozen=True)
class NoiseSource(DataSource):
    """Classes drawn uniformly, without pictures."""

    num_classes: int

    has_images = False

    @property
    def contents(self) -> str:
        """How many classes."""
        return f"{self.num_classes:,} classes, without pictures"

    @property
    def reader(self) -> "NoiseSource":
        """The source itself: there is nothing to read."""
        return self

    def plan(
        self,
        batch_size: int,
        generator: torch.Generator,
        *,
        size_px: tuple[int, int] | None = None,  # noqa: ARG002
    ) -> Draw:
        """Classes drawn uniformly."""
        return draw_rows(self.num_classes, batch_size, generator)

    def read(self, draw: Draw) -> Tensor:
        """Labels (B,)."""
        return torch.tensor(draw.rows)

    def encode(self, batch: Tensor) -> tuple[None, Tensor]:
        """No latents, and labels (B,)."""
        return None, batch


class ClassData(Settings):
    """What every kind of data with class labels is: without prompts and their cache, and of one size."""

    cache: ClassVar[None] = None
    cache_storage: ClassVar[None] = None
    references: ClassVar[None] = None
    references_px: ClassVar[tuple[()]] = ()
    sizes_px: ClassVar[tuple[tuple[int, int], ...]] = ()
    encodes_pictures: ClassVar[bool] = False

    def prompt_facts(self, *, frames: int = 1) -> None:
        """None: there are no prompts."""


class Noise(ClassData):
    """No data: every trajectory starts at noise."""

    type: Literal["noise"] = "noise"
    latents: ClassVar[None] = None
    has_images: ClassVar[bool] = False

    def source_paths(self) -> dict[str, Path]:
        """None: nothing is read from files of the user's."""
        return {}

    def check_source(self) -> None:
        """There is nothing that could be missing."""

    def open(self, space: Space) -> NoiseSource:
        """The source for a class model's space.

        Raises:
            DataError: the teacher takes prompts.
        """
        check_classes(space)
        return NoiseSource(num_classes=space.num_classes)


def check_classes(space: Space) -> None:
    """Raise DataError unless a teacher's space takes class labels."""
    if space.num_classes is None:
        raise DataError("this teacher takes prompts and no class labels; set data.type to prompts or captioned")


def draw_indices(count: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Indices (B,) below `count`, drawn with replacement, so that the order depends on the generator's state alone."""
    return torch.randint(count, (batch_size,), generator=generator, device=generator.device).cpu()


def draw_rows(count: int, batch_size: int, generator: torch.Generator) -> Draw:
    """A draw of `batch_size` out of `count` rows with replacement, of which nothing more is drawn."""
    return Draw(tuple(draw_indices(count, batch_size, generator).tolist()))
