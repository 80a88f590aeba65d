"""Sharding a network over processes by torch's FSDP2: on the meta device first, then every process reads its slices.

No process ever holds more of a frozen base than its shard and what it gathers: the module is built without memory,
sharded (`torch.distributed.fsdp.fully_shard`), given empty shards, and each is read from its place in the weight files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from piflow_cli.engine.processes.gathered import Exact, gathered_together, nothing
from piflow_cli.engine.processes.sharded import fill
from piflow_cli.io.tensors.slices import SlicedWeights

SourceOf = Callable[[str], str | None]
"""A parameter's name -> its name in the weight files, None for what has no place there."""


def shard(
    network: nn.Module,
    *,
    blocks: Iterable[nn.Module],
    mesh: DeviceMesh,
    policy: MixedPrecisionPolicy,
    exact: Exact = nothing,
) -> None:
    """Shard a network in place: each block by itself, and what is left as a whole.

    A module that several blocks share is sharded by itself and stays gathered from its first use to its last. What is
    gathered together has one policy: a block with parameters that stay float32 is gathered as it is held, its
    frozen weights in the precision of their files, and the passes round what they would round of a copy.

    Args:
        network: its parameters may be on the meta device.
        blocks: the repeated blocks, each gathered while it runs.
        mesh: one dimension of processes.
        policy: the precision of what is gathered and reduced.
        exact: which parameters stay float32 in what is gathered too.
    """
    for unit in gathered_together(network, blocks=blocks, policy=policy, exact=exact):
        fully_shard(unit.part, mesh=mesh, mp_policy=unit.policy, reshard_after_forward=not unit.stays)


@torch.no_grad()
def materialise(
    network: nn.Module,
    files: SlicedWeights,
    source_of: SourceOf,
    *,
    dtype: torch.dtype,
    device: torch.device,
    made: dict[str, Tensor],
    exact: Exact = nothing,
) -> None:
    """Give a sharded network on the meta device its memory and its weights, each process its shards alone.

    Args:
        network: sharded; its buffers are real already, and read again where the files have them.
        files: the weights of its base.
        source_of: where a parameter is in the files.
        dtype: of the base: what is read is rounded to it, also for copies that train in float32.
        device: where the shards live.
        made: values of parameters that are in no file, whole, by name.
        exact: which parameters are not rounded to `dtype`.
    """
    buffers = {name: buffer for name, buffer in network.named_buffers() if not buffer.is_meta}
    network.to_empty(device=device)
    for name, buffer in buffers.items():
        owner, _, last = name.rpartition(".")
        source = source_of(name)
        if source is not None and source in files:
            buffer = files.read(source).to(torch.float32 if exact(name) else dtype).to(buffer.dtype)
        setattr(network.get_submodule(owner), last, buffer.to(device))
    for name, parameter in network.named_parameters():
        source = source_of(name)
        if name in made:
            fill(parameter, made[name])
        elif source is not None:
            _read_shard(parameter, files, source, torch.float32 if exact(name) else dtype)


def _read_shard(parameter: Tensor, files: SlicedWeights, source: str, dtype: torch.dtype) -> None:
    """Read this process's part of a tensor into it."""
    if not isinstance(parameter, DTensor):
        parameter.copy_(files.read(source).to(dtype))
        return
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    local = parameter.to_local()
    if local.numel():
        where = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
        local.copy_(files.read(source, where).to(dtype))


def real_parameters(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters that are on no meta device, by name, as copies."""
    for name, parameter in network.named_parameters():
        if not parameter.is_meta:
            yield name, parameter.detach().clone()
