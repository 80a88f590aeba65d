"""Settings of any registered family, for tests that a newcomer is not to edit."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

USUAL = {"shift": 3.2, "segment_size": 0.5}
"""Values for settings without a default, by name; another name gets the first of GUESSES that is allowed."""
GUESSES = (0.5, 1, 2, 4, 8, True, "auto", "grid")


def sensible(family: type[BaseModel], given: Mapping[str, Any] = MappingProxyType({})) -> BaseModel:
    """Settings of a family: what is given, its defaults, and for what has none a value that is allowed."""
    values = dict(given)
    for name, field in family.model_fields.items():
        if field.is_required() and name not in given:
            values[name] = next(v for v in (USUAL.get(name), *GUESSES) if v is not None and allowed(family, name, v))
    return family.model_validate(values)


def allowed(family: type[BaseModel], name: str, value: Any) -> bool:
    """Whether a field takes a value, whatever the others are."""
    try:
        family.model_validate({name: value})
    except ValidationError as error:
        return all(name not in problem["loc"] for problem in error.errors())
    return True
