"""Options that start a command as several processes, shared by the commands that take them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated, Literal, NoReturn

import typer

Strategy = Literal["auto", "ddp", "fsdp2"]
NumProcesses = Annotated[
    int | None,
    typer.Option(
        help="Start as this many processes, each on a GPU of its own, or sharing the CPU with --device cpu.",
        show_default=False,
        min=1,
        rich_help_panel="Processes",
    ),
]
NumMachines = Annotated[
    int, typer.Option(help="Machines on which the same command is started.", min=1, rich_help_panel="Processes")
]
MachineRank = Annotated[
    int, typer.Option(help="Which of them this one is, from 0.", min=0, rich_help_panel="Processes")
]
MainProcess = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of the first machine.", show_default=False, metavar="HOST:PORT", rich_help_panel="Processes"
    ),
]
StrategyOption = Annotated[
    Strategy,
    typer.Option(
        help="ddp copies the network to every process, fsdp2 shards it; auto shards where a copy fills a GPU.",
        rich_help_panel="Processes",
    ),
]


def is_one_of_many() -> bool:
    """Whether this process was started as one of several, by whatever launcher."""
    return "RANK" in os.environ


def start_processes(
    num_processes: int | None,
    *,
    num_machines: int = 1,
    machine_rank: int = 0,
    main_process: str | None = None,
    strategy: Strategy = "auto",
    kept: str = "What was written is kept.",
) -> None:
    """Start this very command as several processes and leave with their exit code; return where it is one of them.

    Args: as the options; `kept` says what is left where one is killed.

    Raises:
        DeviceError: they cannot be started so, or one of them was killed.
    """
    from piflow_cli.engine.processes.world import STRATEGY

    if is_one_of_many() or (num_processes is None and num_machines == 1):
        if strategy != "auto":
            os.environ[STRATEGY] = strategy
        return
    from piflow_cli.engine.processes.launch import Launch, run_processes

    launch = Launch(num_processes or 1, num_machines, machine_rank, main_process, strategy)
    raise typer.Exit(run_processes(sys.argv[1:], launch, kept=kept))


def who_says() -> str:
    """What a message of one of several processes begins with; nothing where there is one."""
    size = os.environ.get("WORLD_SIZE", "1")
    return f"rank {os.environ['RANK']} of {size}: " if is_one_of_many() and size != "1" else ""


def end_process(code: int | None) -> NoReturn:
    """Leave with an exit code.

    One of several processes leaves without Python's own end: threads of an exchange may outlive it, and end the process
    by an abort, so that the launcher reports an error after a success, or another than the one that was said.
    """
    if not who_says():
        sys.exit(code)
    from multiprocessing import active_children

    for reader in active_children():
        reader.terminate()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever reads it may have left
            stream.flush()
    os._exit(code or 0)


BROKEN = ("Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe", "store", "Timed out waiting")
"""Words of torch.distributed where a partner is gone."""


def partner_is_gone(error: BaseException) -> bool:
    """Whether an error only says that another process of the run has ended."""
    if not who_says():
        return False
    kind = type(error).__name__
    return kind.startswith("Dist") or (kind == "RuntimeError" and any(word in str(error) for word in BROKEN))
