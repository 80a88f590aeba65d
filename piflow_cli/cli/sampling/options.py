"""Options of `piflow sample` that are written as text, and those that do not go together."""

from __future__ import annotations

from typing import NamedTuple

import typer


class Options(NamedTuple):
    """Options that are written as text, or whose default depends on others, as they are meant."""

    seed: int
    seeds: list[int] | None
    temperature: float | str | None
    shift: float | str | None


def parse_lora(text: str) -> tuple[str, float]:
    """Source and weight of SOURCE or SOURCE=WEIGHT."""
    source, separator, weight = text.rpartition("=")
    if not separator:
        return text, 1.0
    try:
        return source, float(weight)
    except ValueError:
        raise typer.BadParameter(f"{weight!r} is no weight; write SOURCE=0.8", param_hint="--lora") from None


def check_teacher(
    teacher: bool, *, steps: int | None, shift: str | None, loras: list, quantize: str | None, offload: str
) -> None:
    """Refuse options that only a teacher has, or only a student."""
    if not teacher and shift is not None:
        raise typer.BadParameter("is for --teacher; a student's shift is as trained", param_hint="--shift")
    if not teacher and steps is not None:
        raise typer.BadParameter("is for --teacher; a student's evaluations are --nfe", param_hint="--steps")
    given = {"--lora": bool(loras), "--quantize": quantize is not None, "--offload": offload != "none"}
    if teacher and (refused := [name for name, is_given in given.items() if is_given]):
        raise typer.BadParameter(f"goes without {', '.join(refused)}", param_hint="--teacher")


def parse_shift(text: str | None) -> float | str | None:
    """A number, own, or None where nothing is given."""
    return _number_or("own", text, option="--shift")


def parse_temperature(text: str | None) -> float | str | None:
    """A number, auto, or None where nothing is given."""
    return _number_or("auto", text, option="--temperature")


def _number_or(word: str, text: str | None, *, option: str) -> float | str | None:
    if text is None or text == word:
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor {word}", param_hint=option) from None
