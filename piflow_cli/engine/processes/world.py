"""The processes that a command runs as: how many there are, who started them, and what ends them together."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import Literal

import torch

from piflow_cli.errors import DeviceError

Strategy = Literal["auto", "ddp", "fsdp2"]
STRATEGY = "PIFLOW_STRATEGY"
"""Names the strategy to the processes that a launcher starts."""
ORPHAN_GRACE_S = 45
"""Seconds that a process whose launcher has died takes to save and stop before it ends by itself."""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class World:
    """This process among all.

    Args:
        rank: its number.
        size: of how many.
        local_rank: its number on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def here(cls) -> World:
        """The processes as torchrun, accelerate or Slurm's srun started them.

        Raises:
            DeviceError: a launcher was asked for more processes than it has started.
        """
        adopt_slurm()
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            named = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}
            return cls(**{name: int(os.environ.get(variable, "0")) for name, variable in named.items()})
        if "MASTER_ADDR" in os.environ and "ACCELERATE_USE_CPU" in os.environ:
            raise DeviceError(
                "`accelerate launch` was asked for several processes and has started one: on CPUs it needs an MPI host "
                "file for more. Use `piflow distill ... --num-processes N`, or torchrun --nproc-per-node N"
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise DeviceError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and RANK is not set: this process does not know which one "
                "it is. Start by `piflow distill ... --num-processes N`, torchrun, accelerate launch or srun"
            )
        return cls()


def adopt_slurm() -> None:
    """Give a task of Slurm's srun the variables by which torch.distributed finds the others."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in os.environ or not tasks.isdecimal() or int(tasks) < 2 or "SLURM_PROCID" not in os.environ:
        return
    job = int(os.environ.get("SLURM_JOB_ID", "0"))
    found = {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": first_host(os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1")),
        "MASTER_PORT": str(15_000 + job % 20_000),
    }
    for name, value in found.items():
        os.environ.setdefault(name, value)


def first_host(nodes: str) -> str:
    """The first host of Slurm's notation, such as gpu[03-05,09] or a,b."""
    match = re.match(r"([^,\[]+)(?:\[([^\]]+)\]([^,]*))?", nodes)
    if match is None:
        return nodes
    prefix, numbers, suffix = match[1], match[2], match[3] or ""
    return prefix if numbers is None else prefix + re.split("[-,]", numbers)[0] + suffix


def asked_strategy() -> Strategy:
    """The strategy that the launcher was asked for, by piflow's option or by accelerate's configuration."""
    if os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
        return "fsdp2"  # sharding is set up here, where it is the same on every device; accelerate need not know
    named = os.environ.get(STRATEGY, "auto")
    return named if named in ("ddp", "fsdp2") else "auto"


def end_with_launcher() -> None:
    """Stop this process when the one that started it dies: asked to first, by itself after a while."""
    if sys.platform != "linux" or World.here().size == 1:
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        time.sleep(ORPHAN_GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="launcher-watch").start()


def settle_device(device: torch.device, world: World) -> None:
    """Forget what an earlier run in this Python process left in accelerate, and take the device that was asked for.

    Raises:
        DeviceError: as `own_device`.
    """
    import torch.distributed as dist
    from accelerate.state import AcceleratorState

    own_device(str(device), world)
    if not dist.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def own_device(device: str, world: World) -> str:
    """The name of this process's device, where `device` names that of all of them.

    Raises:
        DeviceError: several processes and one numbered device for all of them, or more processes than GPUs.
    """
    kind, _, number = device.partition(":")
    if world.size == 1:
        return device
    if number:
        raise DeviceError(f"device {device}: {world.size} processes take one device each; use --device {kind}")
    count = torch.cuda.device_count() if kind in ("auto", "cuda") else 0
    if count == 0:
        return device
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # Slurm, which does not say it, may show each task one GPU
    if here > count:
        raise DeviceError(
            f"{here} processes were started on a machine with {count} CUDA device{'s' * (count > 1)}, and each takes "
            f"one: use --num-processes {count}, or --device cpu to share the CPU"
        )
    return f"cuda:{world.local_rank % count}"
