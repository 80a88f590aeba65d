"""The least change of a preset that fits the GPUs at hand, in a fixed order that keeps the recipe as long as it can."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from piflow_cli.core.interfaces import Part, Strategy
from piflow_cli.engine.plan.activations import Setup
from piflow_cli.engine.plan.memory import Memory, estimate_memory, total
from piflow_cli.engine.plan.model import model_facts
from piflow_cli.errors import PresetError
from piflow_cli.preset import Preset, changed_preset

UNITS = {"GB": 10**9, "GIB": 2**30}
GPUS = re.compile(r"(?:(\d+)\s*x\s*)?(\d+(?:\.\d+)?)\s*(GB|GiB)", re.IGNORECASE)
RANKS = (128, 64, 32, 16)
SIZE_SHARES = (0.75, 0.5)
SIZE_STEP_PX = 16
HEADROOM = 0.05
"""Of a GPU that is left free: the sum is an estimate."""


@dataclass(frozen=True)
class Change:
    """A change of a preset.

    Args:
        settings: as --set takes them.
        costs: what of the recipe it gives up, in words; empty where it gives up nothing but time.
    """

    settings: tuple[str, ...]
    costs: str = ""


@dataclass(frozen=True)
class Fit:
    """A preset that fits.

    Args:
        preset: with the changes.
        settings: the changes, as --set takes them; none where it fits as it is.
        costs: what they give up of the recipe.
        memory: of each GPU.
    """

    preset: Preset
    settings: tuple[str, ...]
    costs: tuple[str, ...]
    memory: Memory
    size_bytes: int


@dataclass(frozen=True)
class _Rung:
    """How far the ladder was climbed: what changed, and how the GPUs share the work."""

    changes: tuple[Change, ...]
    strategy: Strategy


def parse_gpus(text: str) -> tuple[int, int]:
    """Number and bytes of GPUs such as 1x24GB, 8x80GiB or 24GB.

    Raises:
        PresetError: it is written in another way.
    """
    match = GPUS.fullmatch(text.strip())
    number, size = (int(match[1] or 1), float(match[2])) if match else (0, 0.0)
    if match is None or not number or not size:
        raise PresetError(f"--fit takes the number of GPUs and the memory of each, such as 1x24GB; got {text!r}")
    return number, int(size * UNITS[match[3].upper()])


def fit(preset: Preset, *, gpus: int, size_bytes: int) -> Fit:
    """The preset with the fewest changes, in the order of `_ladder`, that make it fit on each of `gpus` GPUs.

    Changes are added until it fits with some micro-batch, and those that turn out not to be needed are taken back, the
    costliest first. The micro-batch is then the largest that fits. The effective batch stays.

    `HEADROOM` of each GPU is left free.

    Raises:
        PresetError: nothing on the ladder makes it fit, or the batch does not divide over the GPUs.
    """
    parts, smallest = preset.teacher.pipeline_parts(), None
    if preset.training.batch_size % gpus:
        raise PresetError(f"training.batch_size {preset.training.batch_size} does not divide over {gpus} GPUs")
    for rung in _ladder(preset, gpus):
        found, least = _largest(preset, rung, parts, gpus=gpus, size_bytes=size_bytes)
        smallest = least if smallest is None or least.total_bytes < smallest.total_bytes else smallest
        if found is not None:
            return _pruned(preset, rung, parts, found, gpus=gpus, size_bytes=size_bytes)
    assert smallest is not None
    what = ", ".join(f"{item.bytes / 1e9:.1f} GB {item.name}" for item in smallest.items if item.bytes > 5e8)
    raise PresetError(
        f"{preset.name} does not fit {gpus} x {size_bytes / 1e9:.3g} GB: with everything that --fit may change, each "
        f"GPU still needs {smallest.total_bytes / 1e9:.1f} GB ({what}). Use more or larger GPUs, or a smaller teacher."
    )


def _ladder(preset: Preset, gpus: int) -> Iterator[_Rung]:
    """Ever more changes, from what costs time alone to what changes the recipe.

    1 the micro-batch alone, 2 gradient checkpointing, 3 8-bit AdamW, 4 cached embeddings, 5 offloading: encoders,
    activations, optimiser, 6 sharding by FSDP2, 7 a quantised base: int8, nf4, 8 a smaller LoRA, 9 smaller pictures.
    """
    alone: Strategy = "one GPU" if gpus == 1 else "DDP"
    rung = _Rung((), alone)
    yield rung
    for change in _cheap(preset):
        rung = replace(rung, changes=(*rung.changes, change))
        yield rung
    if gpus > 1:
        unsharded = {"optimizer.name=adamw8bit", "optimizer.name=paged-adamw8bit"}
        kept = tuple(change for change in rung.changes if not unsharded & set(change.settings))
        if preset.optimizer.name in ("adamw8bit", "paged-adamw8bit"):
            kept = (*kept, Change(("optimizer.name=adamw",)))
        yield _Rung(kept, "FSDP2")
    if preset.adapter is None:
        return
    for kind in ("torchao-int8", "bnb-4bit"):
        quantised = Change((f"teacher.quantization={kind}",), f"teacher and student stand on a base of {kind} weights")
        last = replace(rung, changes=(*rung.changes, quantised))
        yield last
    for smaller in _smaller(preset):
        yield replace(last, changes=(*last.changes, *smaller))


def _cheap(preset: Preset) -> Iterator[Change]:
    """Changes that leave what is learnt as it is."""
    if not preset.training.gradient_checkpointing:
        yield Change(("training.gradient_checkpointing=true",))
    if preset.optimizer.name == "adamw":
        yield Change(("optimizer.name=adamw8bit",))
    if preset.data.cache_storage is not None:
        if preset.data.cache is None:
            yield Change((f"data.cache={json.dumps(f'cache/{preset.name}')}",))
        if not preset.teacher.offload_encoders:
            yield Change(("teacher.offload_encoders=true",))
    if not preset.training.offload_activations:
        yield Change(("training.offload_activations=true",))
    if preset.optimizer.name in ("auto", "adamw", "adamw8bit"):
        yield Change(("optimizer.name=paged-adamw8bit",))


def _smaller(preset: Preset) -> Iterator[tuple[Change, ...]]:
    """Changes of what is learnt: the LoRA's rank, then the pictures' size too."""
    ranks: tuple[Change, ...] = ()
    for rank in RANKS:
        if rank < preset.adapter.rank:
            ranks = (Change((f"adapter.rank={rank}",), f"the LoRA has rank {rank}, not {preset.adapter.rank}"),)
            yield ranks
    size = preset.teacher.size_px
    if size is None or preset.data.sizes_px:
        return
    for share in SIZE_SHARES:
        width, height = (max(SIZE_STEP_PX, int(side * share) // SIZE_STEP_PX * SIZE_STEP_PX) for side in size)
        words = f"pictures are {width} x {height}, not {size[0]} x {size[1]}"
        yield (*ranks, Change((f"teacher.width={width}", f"teacher.height={height}"), words))


def _largest(
    preset: Preset, rung: _Rung, parts: tuple[Part, ...], *, gpus: int, size_bytes: int
) -> tuple[Fit | None, Memory]:
    """The rung with the largest micro-batch that fits, None where none does, and the memory of the smallest one."""
    settings = tuple(setting for change in rung.changes for setting in change.settings)
    changed = changed_preset(preset, settings)
    facts, training = model_facts(changed), preset.training
    share = training.batch_size // gpus
    most = min(training.micro_batch_size or share, share)
    segments = changed.objective.num_losses(changed.sampling, has_images=changed.data.has_images)
    cached = changed.data.cache is not None
    for micro in (size for size in range(most, 0, -1) if share % size == 0):
        setup = Setup(rung.strategy, gpus, micro, share // micro * segments > 1, cached)
        memory = estimate_memory(changed, facts, parts, setup)
        if memory.total_bytes <= size_bytes * (1 - HEADROOM):
            own = () if micro == (training.micro_batch_size or share) else (f"training.micro_batch_size={micro}",)
            whole = changed_preset(changed, own) if own else changed
            costs = tuple(change.costs for change in rung.changes if change.costs)
            return Fit(whole, (*own, *_last(settings)), costs, memory, size_bytes), memory
    return None, memory


def _pruned(preset: Preset, rung: _Rung, parts: tuple[Part, ...], found: Fit, *, gpus: int, size_bytes: int) -> Fit:
    """What fits without the changes that were tried on the way and are not needed."""
    for change in reversed(rung.changes):
        fewer = replace(rung, changes=tuple(other for other in rung.changes if other != change))
        smaller, _ = _largest(preset, fewer, parts, gpus=gpus, size_bytes=size_bytes)
        if smaller is not None:
            rung, found = fewer, smaller
    return found


def _last(settings: Sequence[str]) -> tuple[str, ...]:
    """Settings of which a later one takes the place of an earlier one of its key."""
    return tuple({setting.partition("=")[0]: setting for setting in settings}.values())


def memory_words(found: Fit) -> str:
    """The sum in a line: what is largest, and the total beside what a GPU has."""
    items = sorted((item for item in found.memory.items if item.bytes > 5e7), key=lambda item: -item.bytes)
    parts = " + ".join(f"{item.bytes / 1e9:.2f} {item.name}" for item in items)
    rest = found.memory.total_bytes - total(items)
    return f"{parts} + {rest / 1e9:.2f} else = {found.memory.total_bytes / 1e9:.1f} of {found.size_bytes / 1e9:.1f} GB"
