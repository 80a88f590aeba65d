"""Keeping in main memory what a forward pass leaves for its backward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def activations_on_host(network: nn.Module, *, wanted: bool) -> AbstractContextManager[None]:
    """What a student's forward pass runs under: what autograd saves waits in main memory until it is used.

    Weights stay where they are, which `torch.autograd.graph.save_on_cpu` would copy too. Under gradient checkpointing
    what is saved is the blocks' inputs.

    Args:
        network: whose weights stay.
        wanted: False leaves everything where it is.
    """
    if not wanted:
        return nullcontext()
    weights = {p.untyped_storage().data_ptr() for p in network.parameters() if _is_plain(p.data)}

    def pack(tensor: Tensor) -> tuple[torch.device, Tensor]:
        if not _is_plain(tensor) or tensor.untyped_storage().data_ptr() in weights:
            return tensor.device, tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return tensor.device, host.copy_(tensor)

    def unpack(packed: tuple[torch.device, Tensor]) -> Tensor:
        device, tensor = packed
        return tensor.to(device, non_blocking=True)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has a storage of its own: neither quantised by a subclass nor sharded."""
    return type(tensor) in (Tensor, nn.Parameter)
