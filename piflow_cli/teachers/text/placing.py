"""Where networks are while they work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def placed(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Within the context modules are on a device; those that hooks move are left alone."""
    moved = [module for module in modules if not _is_hooked(module)]
    moved = [module for module in moved if _home(module) != device]  # those that are there stay
    homes = [_home(module) for module in moved]
    for module in moved:
        module.to(device)
    try:
        yield
    finally:
        for module, home in zip(moved, homes, strict=True):
            module.to(home)


def _home(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _is_hooked(module: nn.Module) -> bool:
    return hasattr(module, "_hf_hook") or hasattr(module, "hf_device_map")
