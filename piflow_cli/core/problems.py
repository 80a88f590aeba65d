"""Problems of validation in words: the key with its path, what is allowed, what was given."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel

LISTS = ("tuple_type", "list_type")
"""Kinds of problems where a list was wanted."""
HOW_TO_QUOTE = (
    "Texts in lists and tables need quotes of their own, and the shell takes one pair away: "
    """--set '{key}=["a", "b"]' or --set '{key}=[1, 2]'."""
)


def explain(item: Any, model: type[BaseModel], prefix: tuple[str, ...]) -> str:
    """One problem of a ValidationError as `key.path: what is allowed (got value)`."""
    path = ".".join(str(part) for part in (*prefix, *item["loc"]))
    if item["type"] == "extra_forbidden":
        for part in item["loc"][:-1]:
            model = model if isinstance(part, int) else _settings_of(model.model_fields[str(part)].annotation) or model
        near = difflib.get_close_matches(str(item["loc"][-1]), list(model.model_fields), n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(model.model_fields)}."
        return f"{path}: unknown key.{hint}"
    if item["type"] == "missing":
        return f"{path}: missing"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    got = "" if isinstance(item["input"], dict | BaseModel) else f" (got {_got(item['input'])})"
    hint = f". {HOW_TO_QUOTE.format(key=path)}" if item["type"] in LISTS and isinstance(item["input"], str) else ""
    return f"{path}: {message}{got}{hint}" if path else message


def _settings_of(annotation: Any) -> type[BaseModel] | None:
    """The settings that a key holds, alone, in a list or perhaps not; None where it holds none."""
    held = (annotation, *get_args(annotation))
    return next((kind for kind in held if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _got(value: object) -> str:
    """A value for a message; integers beyond what Python writes as text, and long texts, are cut."""
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of more than 38 digits"
    return _short(value) if isinstance(value, str) else repr(value)[:160]


def _short(text: str) -> str:
    """A text for a message, cut."""
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}..."
