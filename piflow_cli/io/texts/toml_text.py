"""Settings and values in TOML's notation."""

import json

from pydantic import BaseModel

COLUMN = 44
"""Where comments begin, beside short values."""


def toml_lines(settings: BaseModel, table: str = "") -> list[str]:
    """A settings tree as TOML: values first, then tables; keys that are unset are comments."""
    lines, tables = [], []
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        if isinstance(value, BaseModel):
            tables.append((key, value))
            continue
        shown = f"# {key} is unset" if value is None else f"{key} = {toml_value(value)}"
        lines.append(commented(shown, field.description))
    for key, value in tables:
        lines += ["", f"[{table}{key}]", *toml_lines(value, f"{table}{key}.")]
    return lines


def commented(line: str, comment: str | None) -> str:
    """A line with a comment behind it, if there is one."""
    return f"{line:<{COLUMN}}  # {comment}" if comment else line


def toml_value(value: object) -> str:
    """A scalar, a list or a table, or settings as one, in TOML's notation, in one line."""
    if isinstance(value, BaseModel):
        return toml_value(value.model_dump(mode="json"))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
