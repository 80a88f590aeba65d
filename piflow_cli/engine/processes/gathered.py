"""What a network is gathered in where FSDP2 shards it over processes: parts, their precision, and their bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.core.interfaces import PolicyFamily, TeacherFamily
from piflow_cli.core.student import Student
from piflow_cli.io.tensors.exact import stays_float32

Exact = Callable[[str], bool]
"""A parameter's name -> whether it stays float32 where others are rounded."""


def nothing(name: str) -> bool:  # noqa: ARG001
    """No parameter is kept in float32."""
    return False


def precision_policy(mixed_precision: str) -> MixedPrecisionPolicy:
    """Parameters are gathered in the precision of the passes, gradients reduced in float32, inputs left as they are.

    Args:
        mixed_precision: no, bf16 or fp16.
    """
    gathered = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]
    reduced = None if gathered is None else torch.float32
    return MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=reduced, cast_forward_inputs=False)


@dataclass(frozen=True)
class Gathered:
    """What is gathered at one time: a block, a module that several blocks share, or what is left of a network.

    Args:
        part: that is sharded by itself.
        policy: the precision that it is gathered in.
        parameters: those that are gathered with it, by their names in the network.
        stays: whether it stays gathered from its first use to the backward pass, and is not gathered again for that.
    """

    part: nn.Module
    policy: MixedPrecisionPolicy
    parameters: tuple[tuple[str, nn.Parameter], ...]
    stays: bool


def gathered_together(
    network: nn.Module, *, blocks: Iterable[nn.Module], policy: MixedPrecisionPolicy, exact: Exact = nothing
) -> list[Gathered]:
    """The parts that a network is sharded in: what blocks share, the blocks, and the rest; arguments as `shard`."""
    blocks, held, left = list(blocks), precision_policy("no"), dict(network.named_parameters())
    names = {id(parameter): name for name, parameter in left.items()}
    parts = shared_modules(blocks)
    found = []
    for part in (*parts, *blocks, network):
        own = [names[id(parameter)] for parameter in part.parameters()]
        with_it = tuple((name, left.pop(name)) for name in own if name in left)
        as_held = any(exact(name) for name, _ in with_it)
        stays = part is network or part in parts
        found.append(Gathered(part, held if as_held else policy, with_it, stays))
    return found


def shared_modules(blocks: list[nn.Module]) -> list[nn.Module]:
    """The largest modules that several blocks hold."""
    counts = Counter(id(part) for block in blocks for part in block.modules())
    shared = {id(part): part for block in blocks for part in block.modules() if counts[id(part)] > 1}
    inner = {id(child) for part in shared.values() for child in part.modules() if child is not part}
    return [part for key, part in shared.items() if key not in inner and any(True for _ in part.parameters())]


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of a diffusers module: what its lists of modules hold."""
    return [block for part in module.children() if isinstance(part, nn.ModuleList) for block in part]


@dataclass(frozen=True)
class GatheredBytes:
    """What a process has in full of networks whose shards it holds.

    Args:
        block: bytes of the largest block, of the student or of a teacher that has a network of its own.
        outside: of what is in no block, or in several, and stays gathered; of both networks.
        as_held: how many trained weights are gathered in float32 though passes are not: autocast makes copies of them.
    """

    block: int
    outside: int
    as_held: int


@lru_cache(maxsize=8)
def gathered_bytes(
    teacher: TeacherFamily,
    policy: PolicyFamily,
    adapter: AdapterSettings | None,
    *,
    mixed_precision: str,
    frozen_bytes: int,
) -> GatheredBytes:
    """Of a student and its teacher as a run shards them, counted on the meta device.

    Args:
        teacher, policy, adapter: of a preset.
        mixed_precision: no, bf16 or fp16.
        frozen_bytes: of a teacher's weight that does not stay float32.

    Raises:
        ModelError: the teacher's config cannot be had, or the adapter names layers that are not there.
    """
    module, backbone = teacher.describe()
    exact, units = partial(stays_float32, module), []
    if adapter is None:  # the teacher has a network of its own, which no policy rounds
        apart = gathered_together(module, blocks=repeated_blocks(module), policy=precision_policy("no"))
        units += [(unit.stays, _bytes(unit, set(), exact, frozen_bytes)) for unit in apart]
        module, backbone = teacher.describe()
    with torch.device("meta"):
        student = Student(module, backbone=backbone, family=policy, adapter=adapter)
    own = {id(parameter) for parameter in student.own_parameters().values()}
    passes = precision_policy(mixed_precision)
    together = gathered_together(student, blocks=repeated_blocks(module), policy=passes, exact=exact)
    units += [(unit.stays, _bytes(unit, own, exact, frozen_bytes)) for unit in together]
    return GatheredBytes(
        block=max((size for stays, size in units if not stays), default=0),
        outside=sum(size for stays, size in units if stays),
        as_held=sum(_trained(unit, own) for unit in together if passes.param_dtype and not unit.policy.param_dtype),
    )


def _bytes(unit: Gathered, own: set[int], exact: Exact, frozen_bytes: int) -> int:
    """Bytes of a part that is gathered, in the precision of its policy or as it is held: what trains, in float32."""
    rounded, whole = unit.policy.param_dtype, torch.float32.itemsize
    return sum(
        parameter.numel()
        * (rounded.itemsize if rounded else whole if id(parameter) in own or exact(name) else frozen_bytes)
        for name, parameter in unit.parameters
    )


def _trained(unit: Gathered, own: set[int]) -> int:
    """Numbers in the weights of a part that train."""
    return sum(parameter.numel() for _, parameter in unit.parameters if id(parameter) in own)
