"""How a student is sampled: as it was trained to be, with changes that its policy can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

from pydantic import ValidationError

from piflow_cli.core.settings import SamplingSettings, Settings
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.errors import PolicyError
from piflow_cli.formats.student import StudentCard

S = TypeVar("S", bound=Settings)


def sampling_settings(
    student: LoadedStudent,
    *,
    nfe: int | None = None,
    substeps: int | None = None,
    temperature: float | Literal["auto"] | None = None,
    h: float | None = None,
) -> tuple[SamplingSettings, list[str]]:
    """The student's own sampling settings with changes, checked against its policy, and warnings.

    Raises:
        PolicyError: out of range, or the policy cannot do it.
    """
    return changed_settings(student.card, name=student.name, nfe=nfe, substeps=substeps, temperature=temperature, h=h)


def changed_settings(
    card: StudentCard,
    *,
    name: str,
    nfe: int | None = None,
    substeps: int | None = None,
    temperature: float | Literal["auto"] | None = None,
    h: float | None = None,
) -> tuple[SamplingSettings, list[str]]:
    """As `sampling_settings`, of a student of which no more is read than its card."""
    trained = card.sampling
    changes = {"nfe": nfe, "total_substeps": substeps, "temperature": temperature, "h": h}
    changed = trained.model_dump() | {key: value for key, value in changes.items() if value is not None}
    settings = checked(SamplingSettings, changed)
    card.policy.check_sampling(segments=settings.segments, shift=settings.shift)
    warnings = []
    if settings.nfe != trained.nfe:
        warnings.append(f"{name} was trained for {trained.nfe} NFE; {settings.nfe} may shift contrast and lose detail")
    if h and settings.nfe == 1:
        warnings.append(f"h is {h:g} and changes nothing at 1 NFE: its noise is added between evaluations")
    return settings, warnings


def checked(kind: type[S], values: Mapping[str, object]) -> S:
    """Settings of some values.

    Raises:
        PolicyError: one of them is out of range; the message names it, and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        allowed = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        raise PolicyError(f"{first['loc'][0]}: {allowed} (got {str(first['input'])[:40]})") from None
