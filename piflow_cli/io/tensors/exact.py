"""Weights that a network holds in float32 whatever the rest is in, as its diffusers class names them."""

from __future__ import annotations

import torch
from torch import nn


def stays_float32(module: nn.Module, name: str) -> bool:
    """Whether a parameter is kept in float32 where the others are rounded.

    By diffusers' own rule in loading: a component of the name is among `_keep_in_fp32_modules` of the class.

    Args:
        module: of a diffusers class, or one that names nothing.
        name: of the parameter, by components; ones of what wraps the module may be around it.
    """
    kept = getattr(module, "_keep_in_fp32_modules", None) or ()
    return not set(name.split(".")).isdisjoint(kept)


def held_dtype(module: nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    """What a parameter is held in where the others are held in `dtype`."""
    return torch.float32 if stays_float32(module, name) else dtype


def rounded_dtype(module: nn.Module) -> torch.dtype:
    """What the weights are in that are not kept in float32: of the first one, float32 where all are kept."""
    named = (p.dtype for name, p in module.named_parameters() if not stays_float32(module, name))
    return next(named, torch.float32)


def held_bytes(module: nn.Module, item_bytes: int) -> int:
    """Bytes of a module's weights where those that do not stay float32 take `item_bytes` each; on any device."""
    size = torch.float32.itemsize
    named = module.named_parameters()
    return sum(p.numel() * (size if stays_float32(module, name) else item_bytes) for name, p in named)
