"""Where and by what a run is started: noted each time, since a run may go on elsewhere. No name of a host or a user."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from piflow_cli import __version__

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft")


def environment_of(device: torch.device, *, run: str, data: str) -> dict[str, str]:
    """Label and value of what a run's numbers may depend on.

    Args:
        device: that it trains on.
        run: processes, batch and precision in words.
        data: what it trains on, in words.
    """
    found = {"piflow": __version__, "Python": platform.python_version()}
    found |= {name: _version(name) for name in LIBRARIES}
    found |= {"system": f"{platform.system()} {platform.machine()}", "device": _named(device)}
    return found | {"run": run, "data": data}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # importable, and not installed as a package
        return "unknown"


def _named(device: torch.device) -> str:
    """A device with its name, or the cores that torch computes on."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda or torch.version.hip}"
    return f"{device.type}, {torch.get_num_threads()} of {os.cpu_count()} cores"
