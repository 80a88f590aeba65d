"""Building networks of configs that others wrote: values of the right kind, that fit together, or a known error."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from piflow_cli.errors import ModelError


def check_kinds(config: Mapping[str, Any], model: type, *, origin: object) -> None:
    """Raise ModelError for a value of another kind than the default of the argument it is for.

    A text where a number belongs ends somewhere deep in a network, or in another network: a module of `"3"` layers has
    none, and one of 2.0 groups fails with its first picture.

    Args:
        config: as it was read; arguments that are left out, or null, are the class's business.
        model: a class of diffusers whose constructor has a default for what it takes.
        origin: of the config, for the message.
    """
    for name, parameter in inspect.signature(model).parameters.items():
        value, usual = config.get(name), parameter.default
        if value is None or usual is None or usual is parameter.empty:
            continue
        if not _is_like(value, usual):
            raise ModelError(f"{origin} says {name} = {repr(value)[:80]}; it takes {_kind(usual)}, such as {usual!r}")


@contextmanager
def built_of(config: Mapping[str, Any], *, origin: object) -> Iterator[None]:
    """Within the context a class of diffusers builds itself of a config, whose values may not fit together.

    Raises:
        ModelError: they do not, as sides that do not divide or heads of another width than their positions.
    """
    try:
        yield
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        sizes = {
            name: value for name, value in config.items() if isinstance(value, int) and not isinstance(value, bool)
        }
        raise ModelError(
            f"{origin} describes no network that can be built: {error or type(error).__name__}. It says "
            + ", ".join(f"{name} {value}" for name, value in sizes.items())
        ) from error


def _is_like(value: Any, usual: Any) -> bool:
    if isinstance(usual, bool) or isinstance(value, bool):
        return isinstance(usual, bool) and isinstance(value, bool)
    if isinstance(usual, float):
        return isinstance(value, int | float)
    if isinstance(usual, list | tuple):
        return isinstance(value, list | tuple) and all(_is_like(item, usual[0]) for item in value if usual)
    return isinstance(value, type(usual))


def _kind(usual: Any) -> str:
    if isinstance(usual, list | tuple):
        return f"a list of {_kind(usual[0])}" if usual else "a list"
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return kinds.get(type(usual), f"a {type(usual).__name__}")
