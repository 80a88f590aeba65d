"""How many bytes a network's weights take as they are kept, quantised ones with what they are read by."""

from collections.abc import Iterator

from torch import Tensor, nn


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters as they lie in memory, each once, those of quantised ones with their scales.

    Buffers and what a forward pass takes are no part of it.
    """
    parts = {id(part): part for parameter in module.parameters() for part in _parts(parameter)}
    return sum(part.nbytes for part in parts.values())


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a parameter is kept as: itself, or what its quantised class holds."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao, as any class of tensors that torch can take apart
        for name in tensor.__tensor_flatten__()[0]:
            yield from _parts(getattr(tensor, name))
        return
    yield tensor
    state = getattr(tensor, "quant_state", None)  # bitsandbytes in 4 bits; its scales may be quantised themselves
    while state is not None:
        yield state.absmax
        state = state.state2 if state.nested else None
    scales = getattr(tensor, "SCB", None)  # bitsandbytes in 8 bits
    if scales is not None:
        yield scales
