"""What processes that each hold a whole network owe one another: the same frozen weights, and nothing sent for them."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from piflow_cli.engine.processes.together import Together
from piflow_cli.errors import ModelError
from piflow_cli.io.tensors.slices import SlicedWeights

NUM_FIRST = 16
"""Values of each tensor that are compared: another training of the same network differs in the first ones too."""


def keep_frozen_out(module: nn.Module) -> None:
    """Let DDP send what is trained alone, and nothing of the frozen base: no tensor of it and no buffer.

    Every process reads the base from its own files. To send it takes time by its size, and quantised tensors, which are
    no flat arrays, cannot be sent.
    """
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    buffers = [name for name, _ in module.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, [*frozen, *buffers])


def check_same_base(base: nn.Module | SlicedWeights, source: str, together: Together) -> None:
    """Refuse processes that have read different weights, as machines have whose disks hold another state of a model.

    Args:
        base: what this process has read, or the files of which it will read its part.
        source: of the teacher, for the message.
        together: the processes.

    Raises:
        ModelError: in a process whose weights differ from the main one's; a PartnerError in the others.
    """
    if together.num_processes == 1:
        return
    digests = together.gather(_digest_of_files(base) if isinstance(base, SlicedWeights) else _digest_of(base))

    def compare() -> None:
        if digests[together.index] != digests[0]:
            raise ModelError(
                f"process {together.index} has read other weights of {source} than process 0. Every machine needs the "
                "same files: compare their checksums, and a hub model's revision, and copy one machine's to the others."
            )

    together.each_does(compare)


def _digest_of(module: nn.Module) -> str:
    """Of names, shapes and the first values of all tensors that are stored as they are, not quantised."""
    plain = {name: tensor for name, tensor in module.state_dict().items() if type(tensor) is torch.Tensor}
    first = [tensor.detach().reshape(-1)[:NUM_FIRST].double() for tensor in plain.values()]
    shapes = {name: tuple(tensor.shape) for name, tensor in plain.items()}
    values = torch.cat(first).cpu().numpy().tobytes() if first else b""
    return hashlib.sha256(repr(shapes).encode() + values).hexdigest()


def _digest_of_files(files: SlicedWeights) -> str:
    """Of names, shapes and the first values of all tensors, of which no more is read."""
    digest = hashlib.sha256()
    for name in sorted(files.names()):
        shape = files.shape(name)
        digest.update(f"{name} {shape}".encode())
        where = tuple(slice(0, 1) for _ in shape[:-1]) + (slice(0, NUM_FIRST),) * bool(shape)
        digest.update(files.read(name, where).double().numpy().tobytes())
    return digest.hexdigest()
