"""Lists of numbers as a person writes them: 1,2,4 or 1-8."""

from __future__ import annotations

import re
from typing import TypeVar

import typer

from piflow_cli.cli import console

N = TypeVar("N", int, float)
RANGE = re.compile(r"\s*(\d{1,20})\s*(?:-\s*(\d{1,20})\s*)?", re.ASCII)
MAX_SEEDS = 100_000


def parse_numbers(text: str | None, option: str, kind: type[N] = int) -> list[N] | None:
    """The numbers of `1,2,4`; None where nothing is given."""
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        known = "whole numbers such as 1,2,4" if kind is int else "numbers such as 0,0.5"
        raise typer.BadParameter(f"{text[:60]!r} is no list of {known}", param_hint=option) from None


def parse_seeds(text: str) -> list[int]:
    """The seeds of `3,7` or `1-8` or both, each once; says so where one was given twice."""
    found: list[int] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part)
        if match is None:
            raise typer.BadParameter(
                f"{text[:60]!r} is no list of whole numbers such as 1,2,3 or 1-8", param_hint="--seeds"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MAX_SEEDS:
            problem = "ends before it begins" if last < first else f"has more than {MAX_SEEDS:,} seeds"
            raise typer.BadParameter(f"the range {part.strip()} {problem}", param_hint="--seeds")
        found += range(first, last + 1)
    distinct = list(dict.fromkeys(found))
    if len(distinct) < len(found):
        console.warn(f"--seeds {text[:60]} names seeds twice; each is drawn once")
    return distinct
