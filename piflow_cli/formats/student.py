"""What a stored student is, whatever its format: a card that says what it needs, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field, ValidationError
from torch import Tensor

from piflow_cli import __version__
from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.core.interfaces import PolicyFamily, TeacherFamily
from piflow_cli.core.settings import PolicySettings, SamplingSettings, Settings, TeacherSettings
from piflow_cli.errors import ModelError


class Recipe(Protocol):
    """What a student was made by, for formats whose files do not say it; a `Preset` is one."""

    @property
    def name(self) -> str:
        """The recipe's name."""
        ...

    @property
    def teacher(self) -> TeacherFamily:
        """The teacher's settings."""
        ...

    @property
    def policy(self) -> PolicyFamily:
        """The policy's settings."""
        ...

    @property
    def sampling(self) -> SamplingSettings:
        """How the student was trained to be sampled."""
        ...

    @property
    def adapter(self) -> AdapterSettings | None:
        """LoRA beside the teacher's weights, None for a student that holds all its weights."""
        ...


class StudentCard(Settings):
    """All that is needed to build and sample a student; it travels beside the weights as JSON."""

    format: Literal["piflow-student"] = "piflow-student"
    version: Literal[1] = 1
    piflow_version: str = Field(description="version that wrote the student")
    preset: str = Field("", description="recipe it was trained by")
    steps: int = Field(0, ge=0, description="optimiser steps it was trained for")
    teacher: TeacherSettings = Field(description="teacher it imitates")
    network: dict[str, Any] = Field(description="the teacher family's own description of the module")
    policy: PolicySettings = Field(description="policy with all parameters that belong to the weights")
    adapter: AdapterSettings | None = Field(None, description="LoRA beside the teacher's weights; none: all weights")
    sampling: SamplingSettings = Field(description="how it was trained to be sampled")

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        network: Mapping[str, Any],
        *,
        policy: PolicyFamily | None = None,
        adapter: AdapterSettings | None = None,
        steps: int = 0,
    ) -> StudentCard:
        """The card of a student that a recipe makes.

        Args:
            recipe: teacher, policy and sampling.
            network: the teacher family's own description of the module.
            policy, adapter: in place of the recipe's, where the weights say more.
            steps: optimiser steps, 0 where they are not known.
        """
        return cls(
            piflow_version=__version__,
            preset=recipe.name,
            steps=steps,
            teacher=recipe.teacher,
            network=dict(network),
            policy=recipe.policy if policy is None else policy,
            adapter=recipe.adapter if adapter is None else adapter,
            sampling=recipe.sampling,
        )

    @classmethod
    def parse(cls, text: str | bytes, *, origin: object) -> StudentCard:
        """A card from its JSON.

        Raises:
            ModelError: it is damaged, or of a version that this release cannot read.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise ModelError(f"{origin} is no student card this version can read: {where}: {first['msg']}") from None


@dataclass
class StoredStudent:
    """A student as read from, or about to be written to, storage.

    Args:
        card: what it needs.
        weights: parameters by the module's own names, tied ones once.
        vae_folder: the autoencoder's folder to read or copy, None for a student on pixels.
    """

    card: StudentCard
    weights: dict[str, Tensor]
    vae_folder: Path | None = None


class Format(Protocol):
    """One way to store a student."""

    name: str

    def matches(self, path: Path) -> bool:
        """Whether the file or folder looks like this format; never reads weights."""
        ...

    def usual_preset(self, path: Path) -> str | None:
        """The preset that such files are known to be trained by where they do not say it, or None."""
        ...

    def read(self, path: Path, *, recipe: Recipe | None = None) -> StoredStudent:
        """Read a student.

        Args:
            path: file or folder for which `matches` is true.
            recipe: says what the files leave out; what they do say counts more.

        Raises:
            ModelError: it is damaged, or says too little and there is no recipe.
        """
        ...

    def write(self, student: StoredStudent, folder: Path) -> None:
        """Write a student into a folder that exists and is empty; the caller moves it into place.

        Raises:
            ModelError: the format has no place for such a student.
        """
        ...

    def caveats(self, student: StoredStudent) -> tuple[str, ...]:
        """What other software that reads this format would get wrong about the student."""
        ...
