"""What a benchmark asks every sampler for: classes or prompts, the same ones in the same order for all.

Shapes: N pictures, K classes or prompts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from piflow_cli.core.conditions import Instruction, TextCondition, join_conditions
from piflow_cli.core.interfaces import Condition, Space
from piflow_cli.data.prompt_lists import PromptList
from piflow_cli.metrics.metric import Groups

ENCODED_AT_ONCE = 8
"""Prompts that are encoded together, always the same ones: rounding and padding depend on what shares a batch."""
KEPT_BYTES = 1_000_000_000
"""Embeddings kept in main memory; prompts beyond are encoded again for every row (512 x 4096 is 8 MB a prompt)."""


class Subjects(Protocol):
    """K classes or prompts that can be asked for, by number."""

    name: str | None
    """What the user called the list of prompts, None for classes."""
    origin: str | None
    """Where on the hub a published set of prompts was fetched from, None elsewhere."""
    labels: Tensor | None
    """Class of each, (K,), None where nothing says it."""

    def __len__(self) -> int: ...

    def condition(self, space: Space, numbers: Tensor) -> Condition:
        """The condition of some of them (B,), as the networks of this space take it."""
        ...

    def texts(self, numbers: Tensor) -> list[str] | None:
        """The prompts of some of them (B,), None where there are none."""
        ...

    def pictures(self, numbers: Tensor) -> list[tuple[Image, ...]]:
        """The reference pictures of some of them (B,)."""
        ...

    def first_distinct(self, count: int) -> list[int]:
        """Numbers of the first `count` different ones, of all where there are fewer."""
        ...

    def digest(self, count: int) -> str:
        """The first `count` by what they say, wherever they are from."""
        ...


@dataclass(frozen=True, eq=False)
class Questions:
    """What N pictures are to show.

    Args:
        subjects: what can be asked for.
        numbers: which of them each picture shows, (N,).
    """

    subjects: Subjects
    numbers: Tensor

    @classmethod
    def in_turn(cls, subjects: Subjects, count: int) -> Questions:
        """Picture i shows subject i % K."""
        return cls(subjects, torch.arange(count) % len(subjects))

    @classmethod
    def grouped(cls, subjects: Subjects, groups: Groups) -> Questions:
        """Several pictures in a row of each of the first different subjects."""
        return cls(
            subjects, torch.tensor(subjects.first_distinct(groups.num_groups)).repeat_interleave(groups.group_size)
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def labels(self) -> Tensor | None:
        """Class of each picture, (N,), None where nothing says it."""
        return None if self.subjects.labels is None else self.subjects.labels[self.numbers]

    def condition(self, space: Space, start: int, stop: int) -> Condition:
        """The condition of pictures start to stop - 1."""
        return self.subjects.condition(space, self.numbers[start:stop])

    def prompts(self, start: int, stop: int) -> list[str] | None:
        """What pictures start to stop - 1 are asked by, None where these are no prompts."""
        return self.subjects.texts(self.numbers[start:stop])

    def pictures(self, start: int, stop: int) -> list[tuple[Image, ...]]:
        """The reference pictures that what pictures start to stop - 1 are asked by is about."""
        return self.subjects.pictures(self.numbers[start:stop])


@dataclass(frozen=True)
class Classes:
    """The classes of a class-conditional model.

    Args:
        count: K.
    """

    count: int

    name = origin = None

    def __len__(self) -> int:
        return self.count

    @property
    def labels(self) -> Tensor:
        """Every class is its own, (K,)."""
        return torch.arange(self.count)

    def condition(self, space: Space, numbers: Tensor) -> Condition:
        """Class numbers as the network takes them."""
        return space.conditions(numbers)

    def texts(self, numbers: Tensor) -> None:
        """None: a class is no prompt."""

    def pictures(self, numbers: Tensor) -> list[tuple[Image, ...]]:
        """None: a class is about no pictures."""
        return [()] * len(numbers)

    def first_distinct(self, count: int) -> list[int]:
        """The first classes."""
        return list(range(min(count, self.count)))

    def digest(self, count: int) -> str:  # noqa: ARG002
        """All of them."""
        return f"{self.count} classes in turn"


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts, encoded when they are first asked for, once, and kept on the CPU as far as `KEPT_BYTES` go.

    A prompt's embedding is bit for bit the same whatever else is asked for, and in whichever process.

    Args:
        listed: the prompts and their labels.
        encoder: the space whose text encoders are used for all; the other spaces have the same ones.
    """

    listed: PromptList
    encoder: Space
    _kept: dict[int, TextCondition] = field(default_factory=dict, init=False, repr=False)
    _last: dict[int, TextCondition] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.listed)

    @property
    def name(self) -> str:
        """As the list."""
        return self.listed.name

    @property
    def origin(self) -> str | None:
        """As the list."""
        return self.listed.origin

    @property
    def labels(self) -> Tensor | None:
        """Class of each prompt, (K,), where the list has them."""
        return None if self.listed.labels is None else torch.tensor(self.listed.labels)

    def condition(self, space: Space, numbers: Tensor) -> TextCondition:
        """Embeddings on the space's device, with the guidance scale that its network embeds.

        Raises:
            ModelError: the text encoders were not loaded.
        """
        rows = [self._row(number) for number in numbers.tolist()]
        return space.conditions(join_conditions(rows))

    def texts(self, numbers: Tensor) -> list[str]:
        """As the list has them."""
        return [self.listed.texts[number] for number in numbers.tolist()]

    def pictures(self, numbers: Tensor) -> list[tuple[Image, ...]]:
        """As the list names them, read now.

        Raises:
            PictureError: one cannot be read or used.
        """
        asked = [self.listed.asked(number) for number in numbers.tolist()]
        return [prompt.pictures if isinstance(prompt, Instruction) else () for prompt in asked]

    def first_distinct(self, count: int) -> list[int]:
        """As the list."""
        return self.listed.first_distinct(count)

    def digest(self, count: int) -> str:
        """By texts, pictures and labels."""
        rows, labels = self.listed.digest(count), (self.listed.labels or ())[:count]
        about = "" if self.listed.about is None else " about pictures"
        return f"{count} prompts{about} {hashlib.sha256(f'{rows} {labels}'.encode()).hexdigest()[:12]}"

    def _row(self, number: int) -> TextCondition:
        """One prompt's condition (1, T, D), on the CPU."""
        if number not in self._kept and number not in self._last:
            self._encode(number - number % ENCODED_AT_ONCE)
        return self._kept[number] if number in self._kept else self._last[number]

    def _encode(self, start: int) -> None:
        """Encode the group of prompts that begins at `start`, and keep it; where there is no room, until the next."""
        asked = [self.listed.asked(i) for i in range(start, min(start + ENCODED_AT_ONCE, len(self.listed)))]
        rows = dict(enumerate(self.encoder.encode_prompts(asked).to("cpu").rows(), start))
        room = KEPT_BYTES - sum(map(_num_bytes, self._kept.values()))
        keeps = room >= sum(map(_num_bytes, rows.values()))
        self._kept.update(rows if keeps else {})
        self._last.clear()
        self._last.update({} if keeps else rows)


def _num_bytes(condition: TextCondition) -> int:
    return sum(tensor.nbytes for tensor in condition.tensors())
