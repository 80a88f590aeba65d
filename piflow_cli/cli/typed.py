"""The command as its user typed it, launcher included, to be run again."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

MAX_ANCESTORS = 4


def typed_command() -> str:
    """The command line that started this process, in a shell's notation.

    Under a launcher (torchrun, accelerate launch, or piflow itself) it is the launcher's, found among the processes
    that started this one; where they cannot be read, this process's own. srun, which is no ancestor of its tasks,
    is made up from its variables.
    """
    own = [_program(sys.argv[0]), *sys.argv[1:]]
    if "RANK" in os.environ or "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        own = next((words for words in _ancestors() if is_launcher(words, own)), None) or [*_srun(), *own]
    return " ".join(_quoted(word) for word in simplified(own))


def _srun() -> list[str]:
    """How srun was asked for the tasks of which this process is one, as far as it says; nothing outside of Slurm."""
    nodes, tasks = (os.environ.get(f"SLURM_STEP_NUM_{what}") for what in ("NODES", "TASKS"))
    if "SLURM_PROCID" not in os.environ or tasks is None:
        return []
    return ["srun", *(["--nodes", nodes] if nodes else []), "--ntasks", tasks]


def is_launcher(words: Sequence[str], own: Sequence[str]) -> bool:
    """Whether a process's words start the command `own`: they hold its arguments."""
    arguments = [word for word in own[1:] if word]
    return bool(arguments) and set(arguments) <= set(words)


def simplified(words: Sequence[str]) -> list[str]:
    """Words without the interpreter where a script was called, and without the folders of either."""
    words = list(words)
    if not words or not Path(words[0]).name.startswith("python"):
        return words
    rest = [word for i, word in enumerate(words[1:]) if not (i == 0 and word == "-u")]
    if rest and rest[0] != "-m" and Path(rest[0]).suffix == "" and Path(rest[0]).is_absolute():
        return [Path(rest[0]).name, *rest[1:]]
    return ["python", *rest]


def _program(path: str) -> str:
    return "python -m piflow_cli" if Path(path).name == "__main__.py" else "piflow"


def _quoted(word: str) -> str:
    return word if word == "python -m piflow_cli" else shlex.quote(word)


def _ancestors() -> list[list[str]]:
    """The words of the processes that started this one, nearest first, as far as the system shows them."""
    found, pid = [], os.getppid()
    for _ in range(MAX_ANCESTORS):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
        found.append([word for word in words if word])
    return found
