"""What training works with: sources of data, and objectives.

Shapes: B batch, C latent channels, S spatial dims (H, W or T, H, W).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from piflow_cli.core.conditions import Prompt
from piflow_cli.core.interfaces.planning import PromptFacts
from piflow_cli.core.interfaces.policies import MakePolicy
from piflow_cli.core.interfaces.segment_losses import SegmentLosses
from piflow_cli.core.interfaces.teachers import Condition, Space, TeacherVelocity
from piflow_cli.core.settings import SamplingSettings


@dataclass(frozen=True)
class TrainingBatch:
    """What an objective works with: one micro-batch, and how to ask student and teacher.

    Args:
        latents: x_0, (B, C, *S); None for data-free training.
        shape: (B, C, *S) of the states.
        make_policy: one evaluation of the student.
        teacher: the teacher's velocity.
        generator: source of all draws.
        device: where the states are.
        segments: told of the loss of each segment by itself.
    """

    latents: Tensor | None
    shape: tuple[int, ...]
    make_policy: MakePolicy
    teacher: TeacherVelocity
    generator: torch.Generator
    device: torch.device
    segments: SegmentLosses


class Objective(Protocol):
    """What a training step asks of student and teacher; its settings are the objective."""

    type: str
    num_intermediates: int
    """States a segment at which the teacher is asked: what a plan counts."""

    def check_sampling(self, sampling: SamplingSettings) -> None:
        """Raise PresetError where it means nothing for students that are sampled so."""
        ...

    def doubts(self, sampling: SamplingSettings) -> list[str]:
        """What is allowed and seldom meant, in sentences."""
        ...

    def num_losses(self, sampling: SamplingSettings, *, has_images: bool) -> int:
        """Losses of a micro-batch, each with a backward pass of its own."""
        ...

    def teacher_ratio(self, step: int) -> float:
        """The teacher's share of the trajectories of the step after `step` steps, in [0, 1]."""
        ...

    def losses(
        self, batch: TrainingBatch, *, sampling: SamplingSettings, dropout: float, step: int
    ) -> Iterator[Tensor]:
        """Yield the losses of a micro-batch, each to be backpropagated before the next is asked for."""
        ...


class DataFamily(Protocol):
    """The settings of one kind of data: they open its source."""

    type: str
    has_images: ClassVar[bool]
    """Whether its sources draw pictures or latents; without, training is data-free."""
    cache: str | None
    """Folder of cached embeddings; None without one, and for class labels."""
    cache_storage: str | None
    """How cached embeddings are stored, bf16 or fp8; None for class labels."""
    references: str | None
    """Field of its rows that names reference pictures; None without any."""
    references_px: tuple[tuple[int, int] | None, ...]
    """Width and height of the reference pictures of a prompt that a plan reckons with; None is the teacher's size."""
    sizes_px: tuple[tuple[int, int], ...]
    """Width and height in pixels of each aspect bucket; none is the teacher's own size."""
    encodes_pictures: bool
    """Whether the teacher's autoencoder is at work in every step."""
    latents: str | None
    """Folder that pictures or videos are encoded into before training; None where they are not, or are none."""

    def prompt_facts(self, *, frames: int = 1) -> PromptFacts | None:
        """What is known of the prompts without asking the hub; None for class labels.

        Args:
            frames: what the teacher draws; captions are of videos where they are more than 1.

        Raises:
            DataError: the prompts are on this machine and cannot be read.
        """
        ...

    def check_source(self) -> None:
        """Raise DataError where it can be said without reading everything that opening will fail."""
        ...

    def source_paths(self) -> dict[str, Path]:
        """The local files and folders that its samples are read from, by the key that names them."""
        ...

    def open(self, space: Space) -> DataSource:
        """The source for a teacher's space."""
        ...


@dataclass(frozen=True)
class Draw:
    """What a batch is to be, decided before any of it is read.

    Args:
        rows: numbers of its B samples.
        size_px: width and height of its pictures; None is the teacher's own size.
        seed: of what reading and encoding draw.
    """

    rows: tuple[int, ...]
    size_px: tuple[int, int] | None = None
    seed: int = 0


class Reader(Protocol):
    """Reads what was drawn. It can be pickled, touches no device and remembers nothing: any process may do it."""

    def read(self, draw: Draw) -> Any:
        """What `DataSource.encode` takes: tensors on the CPU, texts and labels."""
        ...


class DataSource(Protocol):
    """What a run is trained on: conditions, and latents where there are pictures."""

    has_images: bool
    reader: Reader
    reads_files: bool = False
    """Whether reading is worth processes of its own: it opens files, or decodes what is large."""
    skipped: Sequence[str] = ()
    """Names of what was left out so far, such as pictures that do not decode."""
    class_names: Mapping[int, str] = MappingProxyType({})
    """What the data calls classes that the teacher has no names for."""
    doubts: Sequence[str] = ()
    """What is allowed and may not be meant, in sentences."""

    @property
    def contents(self) -> str:
        """How much of what it holds, such as 1,797 pictures."""
        ...

    def plan(self, batch_size: int, generator: torch.Generator, *, size_px: tuple[int, int] | None = None) -> Draw:
        """What a batch is to be; nothing is read.

        Args:
            generator: source of all draws.
            size_px: width and height, as `draw_size` gave them.
        """
        ...

    def encode(self, batch: Any) -> tuple[Tensor | None, Condition]:
        """Latents (B, C, *S), None for data-free training, and what `Space.conditions` takes, of what was read."""
        ...

    def draw(
        self, batch_size: int, generator: torch.Generator, *, size_px: tuple[int, int] | None = None
    ) -> tuple[Tensor | None, Condition]:
        """Plan, read and encode a batch in one go."""
        return self.encode(self.reader.read(self.plan(batch_size, generator, size_px=size_px)))

    def draw_size(self, generator: torch.Generator) -> tuple[int, int] | None:  # noqa: ARG002
        """Width and height in pixels of the next batch, None for the teacher's own size; so where not overridden."""
        return None

    def preview(self, count: int) -> Condition | None:  # noqa: ARG002
        """Conditions that show what is trained; None, where not overridden, leaves the choice to the space."""
        return None

    def preview_prompts(self, count: int) -> list[str] | None:  # noqa: ARG002
        """The prompts of `preview`; None, where not overridden, for conditions that are the space's choice."""
        return None

    def preview_asked(self, count: int) -> Iterable[Prompt]:  # noqa: ARG002
        """The prompts of `preview` with their reference pictures, read one by one; none, where not overridden, of
        prompts that have no pictures.
        """
        return ()
