"""Starting a command as several processes, by torch.distributed's own launcher (torchrun)."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from piflow_cli.engine.processes.world import STRATEGY, Strategy
from piflow_cli.errors import PARTNER_ENDED, DeviceError

KNOWN_EXITS = (0, 1, 2, 130)
"""Exit codes after which the process has said itself what happened."""
USUAL_REASONS = {
    "SIGKILL": ": often the machine's memory was used up (see `dmesg`)",
    "SIGABRT": ": often an exchange between GPUs took longer than training.exchange_timeout_s",
}


@dataclass(frozen=True)
class Launch:
    """How many processes, and where.

    Args:
        num_processes: on each machine.
        num_machines, machine_rank: machines that start the same command, and which one this is.
        main_process: HOST:PORT of the first machine; not needed for one.
        strategy: auto, ddp (copied) or fsdp2 (sharded).
    """

    num_processes: int
    num_machines: int = 1
    machine_rank: int = 0
    main_process: str | None = None
    strategy: Strategy = "auto"

    def check(self) -> None:
        """Raise DeviceError where this cannot be."""
        if self.num_machines > 1 and (self.main_process is None or ":" not in self.main_process):
            raise DeviceError(
                f"--num-machines {self.num_machines} needs --main-process HOST:PORT, the first machine's address and a "
                f"free port on it (got {self.main_process!r})"
            )
        if not 0 <= self.machine_rank < self.num_machines:
            raise DeviceError(
                f"--machine-rank {self.machine_rank}: 0 to {self.num_machines - 1}, another one on each machine"
            )

    def arguments(self) -> list[str]:
        """torchrun's."""
        alone = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--rdzv-id", uuid.uuid4().hex]
        where = alone if self.num_machines == 1 else self._rendezvous()
        return ["--nproc-per-node", str(self.num_processes), *where, "--max-restarts", "0", "--monitor-interval", "0.5"]

    def _rendezvous(self) -> list[str]:
        host, _, port = (self.main_process or "").rpartition(":")
        places = {"--nnodes": self.num_machines, "--node-rank": self.machine_rank}
        places |= {"--master-addr": host, "--master-port": port}
        return [part for key, value in places.items() for part in (key, str(value))]


def run_processes(command: Sequence[str], launch: Launch, *, kept: str) -> int:
    """Run `python -m piflow_cli COMMAND` as several processes and return the exit code of them all.

    They print themselves; a process that is killed cannot, and is reported here. One that fails ends the others.

    Args:
        command: piflow's arguments.
        launch: how many processes, and where.
        kept: what is left where one was killed, and how to go on, for the message that says so.

    Raises:
        DeviceError: the processes cannot be started so, or one was killed.
    """
    os.environ.setdefault("TORCHELASTIC_LOG_LEVEL", "CRITICAL")  # who failed is said by that process, or here
    logging.getLogger("torch.distributed.elastic").setLevel(os.environ["TORCHELASTIC_LOG_LEVEL"])
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, get_args_parser

    launch.check()
    os.environ[STRATEGY] = launch.strategy
    threads = max(1, (os.cpu_count() or 1) // launch.num_processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    parsed = get_args_parser().parse_args([*launch.arguments(), "-m", "piflow_cli", *command])
    config, entrypoint, arguments = config_from_args(parsed)
    config.signals_to_handle = "SIGHUP"  # the processes save first; torchrun would end them after 30 s
    with _Forwarding():
        try:
            elastic_launch(config=config, entrypoint=entrypoint)(*arguments)
        except ChildFailedError as error:
            return _exit_code(error, kept)
    return 0


class _Forwarding:
    """Within the context, SIGTERM and SIGUSR1 go on to the processes; Ctrl-C, which they get too, is left to them."""

    def __enter__(self) -> None:
        self.before = {
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._forward),
            signal.SIGUSR1: signal.signal(signal.SIGUSR1, self._forward),
        }

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @staticmethod
    def _forward(number: int, _frame: FrameType | None) -> None:
        for child in _children(os.getpid()):
            os.kill(child, number)


def _children(parent: int) -> list[int]:
    """The direct children of a process that run Python's piflow, by Linux's or psutil's word."""
    import psutil

    return [child.pid for child in psutil.Process(parent).children() if "piflow_cli" in " ".join(child.cmdline())]


def _exit_code(error: Exception, kept: str) -> int:
    """The exit code of the process that failed first; one that was killed is reported.

    Raises:
        DeviceError: it was killed.
    """
    failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
    told = [failure for _, failure in failures if failure.exitcode in KNOWN_EXITS]
    if told:
        return told[0].exitcode
    consequences = (PARTNER_ENDED, -signal.SIGTERM)  # the launcher ends those that are left by SIGTERM
    rank, first = next(((r, f) for r, f in failures if f.exitcode not in consequences), failures[0])
    if first.exitcode > 0 and first.exitcode != PARTNER_ENDED:
        return first.exitcode
    waiting = [r for r, failure in failures if failure.exitcode == PARTNER_ENDED]
    if waiting and first.exitcode in consequences:
        raise DeviceError(
            f"the process of rank {waiting[0]} has waited for others in vain; all were stopped. {kept} Where one of "
            "them may take longer, raise training.exchange_timeout_s"
        )
    name = signal.Signals(-first.exitcode).name
    raise DeviceError(
        f"the process of rank {rank} was ended by {name}{USUAL_REASONS.get(name, '')}; the others were stopped. {kept} "
        f"It was: {' '.join(['piflow', *sys.argv[1:]])}"
    )
