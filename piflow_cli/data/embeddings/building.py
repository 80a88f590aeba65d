"""Filling a cache of embeddings: processes share the work by locks, and a shard is written whole or not at all.

Shapes: B prompts of a batch, T tokens, D embedding width.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from piflow_cli.core.conditions import Prompt, TextCondition
from piflow_cli.data.embeddings.cache import (
    CacheIndex,
    CachePlan,
    ShardCard,
    check_same,
    identity,
    is_whole,
    missing_shards,
    read_index,
    shard_path,
    special_path,
)
from piflow_cli.data.embeddings.codec import PackedRow, pack, packed_rows, shard_tensors
from piflow_cli.data.shards.claims import build_together, claim, write_shard, writing
from piflow_cli.errors import DataError
from piflow_cli.io.checksums import file_sha256
from piflow_cli.io.files import write_atomic

BATCH_SIZE = 16
FOR = {"what": "embeddings", "key": "data.cache"}

Encode = Callable[[list[Prompt]], TextCondition]


@dataclass(frozen=True)
class CacheReport:
    """What filling a cache came to.

    Args:
        built: shards that this process built.
        kept: shards that were whole before.
        shared: shards that other processes built meanwhile.
        size_bytes: all shards together.
    """

    num_prompts: int
    built: int
    kept: int
    shared: int
    size_bytes: int
    wall_s: float


def build_shards(
    folder: Path,
    plan: CachePlan,
    encode: Encode,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    batch_size: int = BATCH_SIZE,
    verify: bool = True,
) -> CacheReport:
    """Build every shard that is missing or damaged; the cache is complete on return.

    Any number of processes may fill one folder. Each claims a shard at a time by a lock that the system releases even
    where its holder is killed; at the end they wait for one another, and take over what a killed one left.

    Args:
        folder: made if need be.
        encode: B prompts to their condition (B, T, D); called with at most `batch_size` prompts.
        on_progress: called with the prompts done, by whomever, and the prompts of the whole cache.
        verify: compare the checksums of what is there, which reads all of it; False compares sizes.

    Raises:
        DataError: the folder caches something else, or a prompt encodes to non-finite values.
        StorageError: the folder cannot be written, or its disk is full.
    """
    started = time.perf_counter()
    index = _prepare(folder, plan, encode)
    pending = missing_shards(folder, plan, verify=verify)
    kept = plan.num_shards - len(pending)
    built = _Builder(folder, plan, index, encode, on_progress, batch_size, verify).build(pending)
    on_progress(len(plan.prompts), len(plan.prompts))
    return CacheReport(
        num_prompts=len(plan.prompts),
        built=built,
        kept=kept,
        shared=plan.num_shards - kept - built,
        size_bytes=sum(os.stat(shard_path(folder, shard)).st_size for shard in range(plan.num_shards)),
        wall_s=time.perf_counter() - started,
    )


@dataclass
class _Builder:
    """One process at work; `done` counts the prompts that the whole cache has."""

    folder: Path
    plan: CachePlan
    index: CacheIndex
    encode: Encode
    on_progress: Callable[[int, int], None]
    batch_size: int
    verify: bool
    done: int = 0

    def build(self, pending: Sequence[int]) -> int:
        """Build the pending shards that nobody else builds; how many that were."""
        return build_together(
            self.folder,
            pending,
            path_of=lambda shard: shard_path(self.folder, shard),
            is_whole=lambda shard: is_whole(self.folder, self.plan, shard, verify=self.verify),
            build=self.shard,
            on_round=self._count,
            **FOR,
        )

    def _count(self, pending: Sequence[int]) -> None:
        """Count what is done, by whomever."""
        self.done = len(self.plan.prompts) - sum(self.index.shard_count(shard) for shard in pending)
        self.on_progress(self.done, len(self.plan.prompts))

    def shard(self, shard: int) -> None:
        """Encode, write, and then write the card."""
        prompts = self.plan.shard_prompts(shard)
        rows: list[PackedRow] = []
        for start in range(0, len(prompts), self.batch_size):
            texts = [prompts[i] for i in range(start, min(start + self.batch_size, len(prompts)))]
            condition = _encoded(self.encode, texts)
            _check_widths(condition, self.index, self.folder)
            rows += pack(condition, self.plan.storage)
            self.on_progress(self.done + len(rows), len(self.plan.prompts))
        self.done += len(rows)
        first = shard * self.plan.shard_size
        parts = {"cache": identity(self.plan), "first": first, "count": len(rows), "prompts_digest": prompts.digest()}
        path = shard_path(self.folder, shard)
        with writing(self.folder, **FOR):
            path.with_suffix(".json").unlink(missing_ok=True)
            size, sha256 = write_shard(path, shard_tensors(rows))
            card = ShardCard(**parts, bytes=size, sha256=sha256)
            write_atomic(path.with_suffix(".json"), card.model_dump_json(indent=2))


def _prepare(folder: Path, plan: CachePlan, encode: Encode) -> CacheIndex:
    """The index of the folder, written with the special prompts where it is not yet; one process does, others wait.

    Those that are there, of whichever run, stay as they are.
    """
    with claim(folder, "index", wait=True, **FOR):
        index = read_index(folder)
        if index is not None:
            check_same(folder, index, plan)
        kept = index if index is not None and _specials_whole(folder, index) else None
        there = () if kept is None else kept.specials
        missing = [name for name in plan.names if name not in there]
        if kept is not None and not missing:
            return kept
        asked = map(plan.named, missing) if missing else [plan.prompts[0]]  # one at least, for the width
        encoded = [_encoded(encode, [prompt]) for prompt in asked]
        for condition in encoded if kept is not None else ():
            _check_widths(condition, kept, folder)
        with writing(folder, **FOR):
            old = packed_rows(special_path(folder), range(len(there)), num_encoders=len(kept.widths)) if there else []
            new = [row for condition in encoded for row in pack(condition, plan.storage)]
            size, sha256 = write_shard(special_path(folder), shard_tensors([*old, *new]))
            index = CacheIndex(
                fingerprint=plan.fingerprint,
                storage=plan.storage,
                prompts_digest=plan.digest,
                num_prompts=len(plan.prompts),
                shard_size=plan.shard_size,
                embed_width=_widths(encoded[0])[0],
                further_widths=_widths(encoded[0])[1:],
                specials=(*there, *missing),
                specials_bytes=size,
                specials_sha256=sha256,
            )
            write_atomic(folder / "index.json", index.model_dump_json(indent=2))
        return index


def _specials_whole(folder: Path, index: CacheIndex) -> bool:
    path = special_path(folder)
    return path.is_file() and file_sha256(path) == index.specials_sha256


def _check_widths(condition: TextCondition, index: CacheIndex, folder: Path) -> None:
    """Raise DataError where embeddings are of other widths than those of a cache."""
    if _widths(condition) != index.widths:
        raise DataError(
            f"the text encoder gave embeddings of width {_listed(_widths(condition))}; {folder} has "
            f"{_listed(index.widths)}. Name another folder in data.cache."
        )


def _widths(condition: TextCondition) -> tuple[int, ...]:
    """D of every text encoder's embeddings."""
    return tuple(item.embeds.shape[2] for item in condition.sequences)


def _listed(widths: tuple[int, ...]) -> str:
    return " and ".join(map(str, widths))


def _encoded(encode: Encode, texts: Sequence[Prompt]) -> TextCondition:
    """The condition of some prompts, finite and one a prompt."""
    condition = encode(list(texts))
    if len(condition) != len(texts):
        raise ValueError(f"encode gave {len(condition)} conditions for {len(texts)} prompts")
    for text, row in zip(texts, condition.rows(), strict=True):
        pooled = row.pooled is None or bool(torch.isfinite(row.pooled).all())
        about = row.references is None or bool(torch.isfinite(row.references.tokens).all())
        if not (pooled and about and all(item.finite() for item in row.sequences)):
            raise DataError(
                f"the prompt {str(text)[:80]!r} encodes to values that are not finite; a text encoder in float16 "
                "overflows: run it in bfloat16 or float32"
            )
    return condition
