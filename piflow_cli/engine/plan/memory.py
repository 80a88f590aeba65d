"""Memory of a training step on each GPU, item by item: what stays, by arithmetic here, and what comes and goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from piflow_cli.core.interfaces import Part, Strategy
from piflow_cli.engine.plan.activations import (
    FP32,
    ITEM_BYTES,
    Item,
    Setup,
    compute_bytes,
    encoding,
    gathered,
    kept,
    moments,
)
from piflow_cli.engine.plan.model import ModelFacts, described
from piflow_cli.preset import Preset

OPTIMIZER_BYTES = {"adamw8bit": 2, "paged-adamw8bit": 0, "auto": 2, "adamw": 8, "muon": 8}
"""State a trainable parameter: two moments, of 8 bits each by bitsandbytes, which auto takes on CUDA; Muon keeps one
moment of the blocks' matrices and is counted as AdamW. Paged state makes room where there is none."""
SHARDED_OPTIMIZER_BYTES = 8
"""bitsandbytes does not take sharded parameters: AdamW in float32."""
GATHERED_BLOCKS = 3
"""Blocks in full under FSDP2: the one in use, the buffer it was gathered into, and the next one on its way."""
CONTEXT_BYTES, NCCL_BYTES = 1_000_000_000, 1_000_000_000
"""The CUDA context with the libraries' workspaces; what communication between GPUs buffers."""
SLACK = 0.10
"""Of what comes and goes: rounding and fragmentation of PyTorch's allocator."""


@dataclass(frozen=True)
class Memory:
    """Memory of each GPU.

    Args:
        states: what stays there: weights, gradients, optimiser, average, communication.
        moving: what comes and goes, at the largest moment.
        overhead: what is nobody's tensor.
        moments: what a step needs at one moment or another, alone or beyond what it keeps.
        cached_bytes: the total where embeddings come from a cache.
    """

    strategy: Strategy
    gpus: int
    micro_batch_size: int
    states: tuple[Item, ...]
    moving: tuple[Item, ...]
    overhead: tuple[Item, ...]
    moments: tuple[Item, ...]
    cached_bytes: int

    @property
    def items(self) -> tuple[Item, ...]:
        """What adds up to the total, the same names under every strategy."""
        return (*self.states, *self.moving, *self.overhead)

    @property
    def total_bytes(self) -> int:
        """The estimate of the peak."""
        return total(self.items)


def estimate_memory(preset: Preset, facts: ModelFacts, parts: tuple[Part, ...], setup: Setup) -> Memory:
    """The peak of a training step on each GPU."""
    staying = (*_weights(preset, facts, setup), _resident_parts(preset, parts, setup))
    more = CONTEXT_BYTES + (NCCL_BYTES if setup.gpus > 1 else 0)
    context = Item("CUDA context, libraries, NCCL", more, "1 GB for the context, and 1 GB for NCCL beyond one GPU")
    step, visits = moments(preset, facts, setup), encoding(preset, facts, parts, setup)

    def peak(visits: list[Item]) -> tuple[Item, ...]:
        held, largest = kept(preset, facts, setup), max(step, key=_bytes)
        alone = max(visits, key=_bytes, default=largest)
        if alone.bytes > total([*held, largest]):  # prompts are encoded before the step keeps anything
            held, largest = [Item(item.name, 0, _elsewhere(item, alone)) for item in held], alone
        return (
            _gathered(preset, setup),
            *held,
            Item("largest moment", largest.bytes, f"{largest.name}: {largest.arithmetic}"),
        )

    def overhead(moving: tuple[Item, ...]) -> tuple[Item, ...]:
        return (context, Item("allocator's slack", int(total(moving) * SLACK), f"{SLACK:.0%} of what comes and goes"))

    moving = peak(visits)
    cached = peak([visit for visit in visits if visit.name != "encoding prompts"])
    return Memory(
        strategy=setup.strategy,
        gpus=setup.gpus,
        micro_batch_size=setup.micro_batch_size,
        states=staying,
        moving=moving,
        overhead=overhead(moving),
        moments=(*visits, *step),
        cached_bytes=total([*staying, *cached, *overhead(cached)]),
    )


def optimizer_bytes(preset: Preset, strategy: Strategy) -> int:
    """Optimiser state a trainable parameter."""
    return SHARDED_OPTIMIZER_BYTES if strategy == "FSDP2" else OPTIMIZER_BYTES[preset.optimizer.name]


def total(items: Sequence[Item]) -> int:
    """Bytes of all."""
    return sum(item.bytes for item in items)


def _weights(preset: Preset, facts: ModelFacts, setup: Setup) -> list[Item]:
    """What has a size of its own whatever the batch."""
    sharded = setup.strategy == "FSDP2"
    trainable, state = facts.trainable, optimizer_bytes(preset, setup.strategy)
    eight_bit = state == OPTIMIZER_BYTES["adamw8bit"]
    shards = setup.gpus if sharded else 1
    waiting = trainable if sharded and setup.accumulates else 0

    def item(name: str, numbers: int, size: int, shards: int = 1, words: str = "") -> Item:
        arithmetic = f"{numbers:,} x {size} bytes" + (f" / {shards}" if shards > 1 else "") + words
        return Item(name, numbers * size // shards, arithmetic if numbers else "")

    return [
        _base(preset, facts, shards),
        item("trainable weights, fp32", trainable, FP32, shards),
        item("gradients, fp32", trainable, FP32, shards),
        item("optimiser", trainable, state, shards, " of 8-bit AdamW; 8 bytes without bitsandbytes" * eight_bit),
        item("average of the weights, fp32", trainable, FP32, shards),
        item("gradient buckets of DDP", trainable if setup.strategy == "DDP" else 0, FP32),
        item("gradients yet to be exchanged", waiting, compute_bytes(preset), 1, ", whole while they accumulate"),
    ]


def _base(preset: Preset, facts: ModelFacts, shards: int) -> Item:
    """The teacher's weights, which an adapted student stands on too."""
    kind, size = preset.teacher.quantization, ITEM_BYTES[preset.training.teacher_dtype]
    held = preset.teacher.frozen_bytes(described(preset)[0], size)
    if kind == "none":
        more = held - facts.frozen * size
        words = f"{facts.frozen:,} x {size} bytes" + f" + {more:,} of what stays float32" * (more > 0)
        words = f"({words})" if more and shards > 1 else words
    else:
        each = f"{facts.frozen:,} x {held / facts.frozen:.3g} bytes"
        words = f"{each} ({kind}, with its scales and what stays whole)"
    name = "teacher's weights" if preset.adapter is None else "base weights, for teacher and student"
    return Item(name, held // shards, words + (f" / {shards}" if shards > 1 else ""))


def _gathered(preset: Preset, setup: Setup) -> Item:
    """Weights that FSDP2 has in full for the moment."""
    if setup.strategy != "FSDP2":
        return Item("gathered weights of FSDP2", 0, "")
    found = gathered(preset)
    words = f"{GATHERED_BLOCKS} x {found.block:,} bytes of a block + {found.outside:,} outside"
    return Item("gathered weights of FSDP2", GATHERED_BLOCKS * found.block + found.outside, words)


def _resident_parts(preset: Preset, parts: tuple[Part, ...], setup: Setup) -> Item:
    """Text encoders and autoencoder where they are not offloaded; cached embeddings need no encoders."""
    name, size = "text encoders, autoencoder", ITEM_BYTES[preset.training.teacher_dtype]
    used = [part.parameters for part in parts if not (part.is_encoder and setup.cached)]
    if not used or preset.teacher.offload_encoders:
        return Item(name, 0, "offloaded" if used else "")
    return Item(name, sum(used) * size, f"({' + '.join(f'{number:,}' for number in used)}) x {size} bytes")


def _elsewhere(item: Item, moment: Item) -> str:
    return f"not while {moment.name}; else {item.bytes:,} = {item.arithmetic}"


def _bytes(item: Item) -> int:
    return item.bytes
