"""A plan in words and tables, for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from piflow_cli.engine.plan.activations import Item
from piflow_cli.engine.plan.cache import CODED_WORDS, LatentEstimate
from piflow_cli.engine.plan.memory import Memory
from piflow_cli.engine.plan.plan import Plan

CHECKPOINT_WORDS = "(4 of weights, 4 of their average, 8 of AdamW's state; 2 where it is 8-bit)"

PUBLISHED_WORDS = "embeddings cached, gradients accumulated; 8-bit AdamW under DDP, AdamW in fp32 under FSDP2"


@dataclass(frozen=True)
class Section:
    """A title over rows of cells; without columns a row is a label and its value."""

    title: str
    rows: Sequence[tuple[str, ...]]
    columns: tuple[str, ...] = ()


def report(plan: Plan) -> list[Section]:
    """Everything the plan says, in the order to be read in."""
    sections = [_parameters(plan), *_memory(plan), _batches(plan), _work(plan), _disk(plan)]
    if plan.embedding_cache is not None:
        sections.append(_cache(plan))
    if plan.latent_cache is not None:
        sections.append(_latents(plan.latent_cache))
    if plan.published:
        sections.append(_published(plan))
    return sections


def size(num_bytes: int) -> str:
    """A size in the largest decimal unit that keeps it above 1."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _parameters(plan: Plan) -> Section:
    facts = plan.facts
    rows = [("teacher (frozen)" if not facts.lora else "base, for teacher and student (frozen)", f"{facts.frozen:,}")]
    if facts.lora:
        rows.append((f"LoRA on {facts.lora_layers} layers", f"{facts.lora:,}"))
    rows += [("rest of the network" if name == "network" else name, f"{n:,}") for name, n in facts.modules.items()]
    rows += [("policy head", f"{facts.head:,}"), ("student (trainable)", f"{facts.trainable:,}")]
    rows += [(part.name, f"{part.parameters:,} ({part.known_from})") for part in plan.parts]
    return Section("Parameters", rows)


def _memory(plan: Plan) -> list[Section]:
    """The table over GPUs, the arithmetic under DDP and FSDP2, and the moments of a step."""
    columns = _distinct(plan.memory)
    if not columns:
        return []
    memories, headings = zip(*columns, strict=True)
    cells = zip(*(memory.items for memory in memories), strict=True)
    rows = [(row[0].name, *(size(item.bytes) if item.bytes else "" for item in row)) for row in cells]
    rows = [row for row in rows if any(row[1:])]
    rows += [
        ("sum", *(size(memory.total_bytes) for memory in memories)),
        ("sum with cached embeddings", *(size(memory.cached_bytes) for memory in memories)),
        ("samples at a time", *(str(memory.micro_batch_size) for memory in memories)),
    ]
    if all(memory.cached_bytes == memory.total_bytes for memory in memories):
        del rows[-2]
    plain = next((i for i, memory in enumerate(memories) if memory.strategy == "DDP"), 0)
    sections = [
        Section("Memory of each GPU", rows, ("", *headings)),
        Section(f"How it adds up, {headings[plain]}", _lines(memories[plain].items)),
    ]
    if memories[-1].strategy == "FSDP2":
        others = [item for item in memories[-1].items if item not in memories[plain].items]
        sections.append(Section(f"Otherwise, {headings[-1]}", _lines(others)))
    sections.append(Section(f"Moments of a step, {headings[plain]}", _lines(memories[plain].moments)))
    return sections


def _lines(items: Sequence[Item]) -> list[tuple[str, str]]:
    return [(item.name, f"{size(item.bytes):>8} = {item.arithmetic}") for item in items if item.arithmetic]


def _distinct(memories: Sequence[Memory]) -> list[tuple[Memory, str]]:
    """Columns with their headings; DDP costs the same on any number of GPUs at one micro-batch."""
    columns: list[tuple[Memory, list[int]]] = []
    for memory in memories:
        same = [gpus for other, gpus in columns if (other.strategy, other.items) == (memory.strategy, memory.items)]
        if same:
            same[0].append(memory.gpus)
        else:
            columns.append((memory, [memory.gpus]))
    headings = ["1 GPU" if m.gpus == 1 else f"{m.strategy} {','.join(map(str, gpus))}" for m, gpus in columns]
    return [(memory, heading) for (memory, _), heading in zip(columns, headings, strict=True)]


def _batches(plan: Plan) -> Section:
    rows = []
    for share in plan.shares:
        if share.problem:
            rows.append((_gpus(share.gpus), share.problem))
            continue
        passes = f"{share.accumulation} accumulated x {share.micro_batch_size} at a time"
        rows.append((_gpus(share.gpus), f"x {passes} = {plan.batch_size:,}"))
    return Section(f"Batch; without accumulation it takes {_gpus(plan.gpus_without_accumulation)}", rows)


def _gpus(number: int) -> str:
    return f"{number} GPU{'s' * (number > 1)}"


def _work(plan: Plan) -> Section:
    walk = f"{plan.images:,} images x {plan.segments_a_sample} (segments that one walks)"
    asked = f"these x {plan.num_intermediates} (states of a segment) x {plan.teacher_passes} (passes of guidance)"
    rows = [
        ("optimiser steps", f"{plan.steps:,}"),
        ("effective batch", f"{plan.batch_size:,}"),
        ("images in all", f"{plan.images:,}"),
        ("student evaluations in all", f"{plan.student_evaluations:,} = {walk}"),
        ("teacher evaluations in all", f"{plan.teacher_evaluations:,} = {asked}"),
    ]
    return Section("Work", rows)


def _disk(plan: Plan) -> Section:
    trainable = f"{plan.facts.trainable:,} trainable"
    rows = [
        ("one checkpoint", f"{size(plan.checkpoint_bytes):>8} = {trainable} x 16 bytes {CHECKPOINT_WORDS}"),
        ("student", f"{size(plan.student_bytes):>8} = {trainable} x 4 bytes"),
        ("run in all", f"{size(plan.disk_bytes):>8} = {plan.checkpoints} checkpoints and the student"),
    ]
    return Section("Disk", rows)


def _cache(plan: Plan) -> Section:
    cache = plan.embedding_cache
    rows = [
        ("a prompt", f"{size(cache.prompt_bytes):>8} = {cache.arithmetic}"),
        ("tokens of a prompt", f"{cache.tokens:.4g}: {cache.tokens_from}"),
        ("share left by coding", f"{cache.coded_share}, {CODED_WORDS}"),
    ]
    if cache.prompts is not None:
        rows.append(("in all", f"{size(cache.total_bytes):>8} = {cache.prompts:,} prompts"))
    else:
        rows.append(("in all", "not known: data.path is not here, and nothing else says how many prompts it has"))
    return Section("Embedding cache" if cache.used else "Embedding cache, if data.cache named one", rows)


def _latents(latents: LatentEstimate) -> Section:
    rows = [(f"one of the {latents.what}", f"{size(latents.item_bytes):>8} = {latents.arithmetic}")]
    if latents.total_bytes is not None:
        rows.append(("in all", f"{size(latents.total_bytes):>8} = {latents.number:,} {latents.what}"))
    else:
        rows.append(("in all", f"not known: nothing here says how many {latents.what} there are"))
    title = f"Latents of {latents.what}"
    return Section(title if latents.used else f"{title}, if data.latents kept them", rows)


def _published(plan: Plan) -> Section:
    rows = []
    for case in plan.published:
        parts = tuple(map(size, case.estimated_parts)) or ("", "", "")
        shown = (size(case.published_bytes), size(case.estimated_bytes), f"{case.difference:+.1%}")
        rows.append((case.what, *shown, *parts))
    columns = ("", "published", "here", "difference", "weights and states", "comes and goes", "overhead")
    return Section(f"Held against what was published ({PUBLISHED_WORDS})", rows, columns)
