"""PyTorch's meta device in the place of a GPU: what crosses between it and the host can be counted on any machine.

A tensor on `meta` has no numbers, as one on a GPU has none that the host knows without waiting. Within `Crossings` the
waits are counted, and answered with made-up numbers; what is counted is in its docstring.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
META = torch.device("meta")
SHAPED_BY_VALUES = (aten.nonzero, aten.masked_select, aten._unique2, aten.repeat_interleave)
"""Operations whose result has a size that only the device knows."""


class Crossings(TorchDispatchMode):
    """Counts, within the context, by PyTorch's own operations as they are dispatched:

    - reads: `_local_scalar_dense` (what `.item()`, `bool()`, `float()` and `int()` become) of a tensor on the device;
      copies from it to the host (`.cpu()`, `.tolist()`, `.numpy()`); operations whose result's size depends on values
      (`nonzero`, masks as indices). Each makes the host wait for all that the device has been asked for.
    - sends: copies from the host to the device (`.to`, `copy_`, `torch.tensor(..., device=...)`).

    Not counted: numbers and 0-dimensional host tensors that go along as arguments of an operation on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.sends: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        packet, on_device = func.overloadpacket, any(map(is_on_device, tree_leaves((args, kwargs))))
        if packet is aten._local_scalar_dense and on_device:
            self.reads.append(where())
            return 1
        if packet is aten._to_copy and on_device and torch.device(kwargs.get("device") or META).type == "cpu":
            self.reads.append(where())
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        masks = packet is aten.index and any(m is not None and m.dtype in (torch.bool, torch.uint8) for m in args[1])
        if on_device and (packet in SHAPED_BY_VALUES or masks):
            self.reads.append(where())
        result = func(*args, **kwargs)
        if packet is aten.copy_ and is_on_device(args[0]) and not is_on_device(args[1]):
            self.sends.append(where())
        if packet is aten._to_copy and not on_device and is_on_device(result):
            self.sends.append(where())
        if packet is aten.lift_fresh and on_device:
            self.sends.append(where())
        return result


def is_on_device(value: object) -> bool:
    """Whether it is a tensor on the stand-in."""
    return isinstance(value, Tensor) and value.device == META


def where() -> str:
    """The line of this project that asked for it."""
    for frame in reversed(traceback.extract_stack()[:-2]):
        if "piflow_cli" in frame.filename and not frame.filename.endswith("crossings.py"):
            return f"{frame.filename.partition('piflow_cli/')[2]}:{frame.lineno} {frame.line}"
    return traceback.extract_stack()[-3].line or ""


def to_stand_in(module: nn.Module) -> None:
    """Put a module's tensors on the stand-in, in their places: optimisers and averages keep knowing them."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is None or tensor.device == META:
                    continue
                moved = tensor.detach().to(META)
                if isinstance(tensor, nn.Parameter):
                    torch.utils.swap_tensors(tensor, nn.Parameter(moved, requires_grad=tensor.requires_grad))
                else:
                    tensors[name] = moved
