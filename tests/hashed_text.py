"""A text encoder made of hashes, and processes that fill a cache with it: a module, so that spawned ones can import it.

Shapes: B prompts, T tokens, D = WIDTH.
"""

import hashlib
import time
from pathlib import Path

import torch

from piflow_cli.core.conditions import TextCondition
from piflow_cli.data.embeddings.building import CacheReport, build_shards
from piflow_cli.data.embeddings.cache import CachePlan
from piflow_cli.data.files.prompts import PromptSet

WIDTH = 24
POOLED = 5


def num_tokens(text: str) -> int:
    """T of a text without padding: 1 to 7."""
    return 1 + len(text) % 7


def encode_one(text: str) -> TextCondition:
    """(1, T, D) in bfloat16 with values that depend on the text alone; some tokens hold an outlier."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "little")
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(1, num_tokens(text), WIDTH, generator=generator)
    embeds[0, 0, 3] *= 1000
    pooled = torch.randn(1, POOLED, generator=generator)
    mask = torch.ones(1, embeds.shape[1], dtype=torch.bool)
    return TextCondition(embeds.bfloat16(), mask, pooled.bfloat16())


def encode(texts: list[str]) -> TextCondition:
    """A batch padded to its longest prompt; what is padding is not finite, so that nobody can use it unnoticed."""
    rows = [encode_one(text) for text in texts]
    longest = max(row.embeds.shape[1] for row in rows)
    embeds = torch.full((len(rows), longest, WIDTH), torch.nan, dtype=torch.bfloat16)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        embeds[i, : row.embeds.shape[1]] = row.embeds[0]
        mask[i, : row.embeds.shape[1]] = True
    return TextCondition(embeds, mask, torch.cat([row.pooled for row in rows]))


def prompt_set(count: int) -> PromptSet:
    """Prompts of various lengths, not all of them ASCII."""
    return PromptSet.pack(f"prompt {'é' * (i % 5)}{i}" for i in range(count))


def plan_of(count: int, **changes: object) -> CachePlan:
    """A plan of small shards."""
    settings = {"fingerprint": "hashes-1", "storage": "bf16", "specials": ("", "blurry"), "shard_size": 4}
    return CachePlan(prompt_set(count), **(settings | changes))


def fill(folder: Path, count: int, *, pause_s: float = 0.0) -> CacheReport:
    """Fill a cache, taking `pause_s` a batch."""

    def slow(texts: list[str]) -> TextCondition:
        time.sleep(pause_s)
        return encode(texts)

    return build_shards(folder, plan_of(count), slow)


def fill_and_report(folder: Path, count: int, start: object, queue: object) -> None:
    """What a spawned process does: wait for the others, fill, report."""
    start.wait()
    queue.put(fill(folder, count, pause_s=0.05))
