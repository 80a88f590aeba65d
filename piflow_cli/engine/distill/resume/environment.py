"""Where and by what a run is started: noted each time, since a run may go on elsewhere. No name of a host or a user."""

from __future__ import annotations

import os
import platform

import torch

from piflow_cli.engine.students.versions import versions_of

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft")


def environment_of(device: torch.device, *, run: str, data: str) -> dict[str, str]:
    """Label and value of what a run's numbers may depend on.

    Args:
        device: that it trains on.
        run: processes, batch and precision in words.
        data: what it trains on, in words.
    """
    found = versions_of(LIBRARIES) | {"Python": platform.python_version()}
    found |= {"system": f"{platform.system()} {platform.machine()}", "device": _named(device)}
    return found | {"run": run, "data": data}


def _named(device: torch.device) -> str:
    """A device with its name, or the cores that torch computes on."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda or torch.version.hip}"
    return f"{device.type}, {torch.get_num_threads()} of {os.cpu_count()} cores"
