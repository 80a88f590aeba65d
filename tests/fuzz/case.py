"""What is attacked: valid input, how it is attacked, and the public entry that reads it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piflow_cli.errors import PiflowError


@dataclass(frozen=True)
class Case:
    """Where a case is.

    Args:
        given: what it reads, already attacked.
        out: where it may write.
    """

    given: Path
    out: Path


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Args:
        build: writes valid input into an empty folder.
        attack: changes it, and returns what was changed, or what the entry is asked for.
        run: calls the public entry with what `attack` returned; the valid input with `usual`.
        usual: what the entry is asked for where nothing is attacked.
        writes: whether the entry may change what it reads, as a run does with its folder.
        known: errors that a user may meet.
    """

    build: Callable[[Path], None]
    attack: Callable[[random.Random, Path], Any]
    run: Callable[[Case, Any], Any]
    usual: Any = None
    writes: bool = False
    known: tuple[type[BaseException], ...] = (PiflowError,)
