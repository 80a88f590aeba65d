"""What a stored student is, whatever its format: a card that says what it needs, and its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field, ValidationError, computed_field, field_validator, model_validator
from torch import Tensor

from piflow_cli import __version__
from piflow_cli.core.adapter import AdapterSettings, lora_layout
from piflow_cli.core.interfaces import PolicyFamily, TeacherFamily
from piflow_cli.core.schedule import Segments
from piflow_cli.core.settings import PolicySettings, SamplingSettings, Settings, TeacherSettings
from piflow_cli.errors import ModelError, PolicyError
from piflow_cli.io.bounds import bounded_json, check_config
from piflow_cli.io.weights import check_layers

MAX_NFE = 128
"""The most evaluations that `SamplingSettings` allows."""
MAX_POLICY_WIDTH = 2**16
"""A width in a policy's settings that costs little to build, whether the weights have it or not."""
DERIVED = ("allowed_nfe", "guidance_scale")
"""Keys that a card has for its readers: they follow from the others and are reckoned anew."""


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
    dtype: str | None = Field(None, description="of the weights; several joined by commas, unset in old cards")

    @model_validator(mode="before")
    @classmethod
    def _drop_derived(cls, values: Any) -> Any:
        return {key: v for key, v in values.items() if key not in DERIVED} if isinstance(values, dict) else values

    @field_validator("network")
    @classmethod
    def _as_stored(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(value.get("config", {}), dict):
            raise ValueError(f"config is no table but {type(value['config']).__name__}")
        return json.loads(json.dumps(value))  # tuples are lists, as they come back

    @computed_field
    @property
    def allowed_nfe(self) -> tuple[int, int] | None:
        """Fewest and most evaluations that the policy serves; others than `sampling.nfe` may still cost quality."""
        served = [nfe for nfe in range(1, MAX_NFE + 1) if self._serves(nfe)]
        return (served[0], served[-1]) if served else None

    @computed_field
    @property
    def guidance_scale(self) -> float | None:
        """Guidance that it was trained with, None for teachers without."""
        return self.teacher.guidance_scale

    @property
    def needs_base(self) -> bool:
        """Whether it is used with its base: with its weights beside an adapter's, or with its text encoders."""
        return self.adapter is not None or self.teacher.students_need_base

    def _serves(self, nfe: int) -> bool:
        try:
            segments = Segments(nfe, self.sampling.final_step_scale)
            self.policy.check_sampling(segments=segments, shift=self.sampling.shift)
        except PolicyError:
            return False
        return True

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
            bounded_json(text)
            card = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise ModelError(f"{origin} is no student card this version can read: {where}: {first['msg']}") from None
        except ValueError as error:
            raise ModelError(f"{origin} is no student card this version can read: {error}") from None
        check_config(card.network, origin=origin)
        card.teacher.check_network(card.network, origin=origin)
        fields = type(card.policy).model_fields
        own = {key: fields[key].default for key in card.policy.local_keys}  # no file starts a compiler here
        return card.model_copy(update={"policy": card.policy.model_copy(update=own)})


@dataclass
class StoredStudent:
    """A student as read from, or about to be written to, storage.

    Args:
        card: what it needs; its dtype is set to that of the weights.
        weights: parameters by the module's own names, tied ones once.
        vae_folder: the autoencoder's folder to read or copy, None for a student on pixels.
        warnings: what a user should know of the files it was read from.
    """

    card: StudentCard
    weights: dict[str, Tensor]
    vae_folder: Path | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in self.weights.values()})
        self.card = self.card.model_copy(update={"dtype": ", ".join(dtypes) or None})


def check_sizes(card: StudentCard, weights: Mapping[str, Tensor], *, source: object) -> None:
    """Raise ModelError for a card of another size than its weights, before a module is built of it."""
    if card.adapter is None:
        check_layers(card.network.get("config", {}), weights.keys(), source=source)
    else:
        rank, layers = lora_layout(dict(weights), source=source)
        if card.adapter.rank != rank:
            raise ModelError(f"the card of {source} says LoRA of rank {card.adapter.rank}, but its weights have {rank}")
        named = card.adapter.targets or ()
        if len(named) > len(layers):
            raise ModelError(
                f"the card of {source} names {len(named)} layers with LoRA, but its weights have {len(layers)}"
            )
    widest = max((side for tensor in weights.values() for side in tensor.shape), default=0)
    for key, value in card.policy.model_dump().items():
        if isinstance(value, int) and value > max(widest, MAX_POLICY_WIDTH):
            raise ModelError(f"the card of {source} says policy.{key} = {value}, its widest weight has {widest} rows")


class Format(Protocol):
    """One way to store a student."""

    name: str
    suffix: str
    """End of the name of the one file that it is; empty where it is a folder."""
    holds_adapters: bool
    """Whether there is a place for LoRA beside a base; where not, LoRA is merged into the base before."""

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

    def check(self, card: StudentCard) -> None:
        """Raise ModelError, with the reason, where the format has no place for a student of this card."""
        ...

    def write(self, student: StoredStudent, place: Path) -> None:
        """Write a student into an empty folder, or to a file that is not there yet; the caller moves it into place.

        Raises:
            ModelError: as `check`.
        """
        ...

    def caveats(self, student: StoredStudent) -> tuple[str, ...]:
        """What other software that reads this format would get wrong about the student."""
        ...
