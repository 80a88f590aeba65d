"""What was measured of the authors' public implementation, beside what this arithmetic says of the same case."""

from __future__ import annotations

from dataclasses import dataclass

from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.core.interfaces import CacheCase, MemoryCase, Part
from piflow_cli.engine.plan.activations import Setup
from piflow_cli.engine.plan.cache import cache_of
from piflow_cli.engine.plan.memory import estimate_memory, total
from piflow_cli.engine.plan.model import ModelFacts, described
from piflow_cli.preset import Preset


@dataclass(frozen=True)
class Comparison:
    """A published figure and ours.

    Args:
        estimated_parts: what adds up to ours: states, what comes and goes, overhead; none for a cache.
    """

    what: str
    published_bytes: int
    estimated_bytes: int
    estimated_parts: tuple[int, ...] = ()

    @property
    def difference(self) -> float:
        """Ours relative to the published one; 0.1 is 10% more."""
        return self.estimated_bytes / self.published_bytes - 1


def comparisons(preset: Preset, facts: ModelFacts, parts: tuple[Part, ...]) -> list[Comparison]:
    """The published cases of the preset's teacher; none where the preset changes what they depend on."""
    if preset.adapter is None or preset.optimizer.name not in ("auto", "adamw8bit") or preset.data.sizes_px:
        return []
    if preset.teacher.quantization != "none" or preset.training.offload_activations:
        return []
    if preset.adapter.rank != AdapterSettings().rank or preset.adapter.targets is not None:
        return []
    cases = preset.teacher.measured(described(preset)[0])
    return [_compare(preset, facts, parts, case) for case in cases]


def _compare(preset: Preset, facts: ModelFacts, parts: tuple[Part, ...], case: MemoryCase | CacheCase) -> Comparison:
    if isinstance(case, CacheCase):
        estimate = cache_of(preset, facts, prompts=case.prompts).total_bytes or 0
        return Comparison(f"embeddings of {case.prompts:,} prompts", case.bytes, estimate)
    setup = Setup(case.strategy, case.gpus, case.micro_batch_size, accumulates=True, cached=True)
    memory = estimate_memory(preset, facts, parts, setup)
    where = "DDP" if case.strategy == "DDP" else f"{case.strategy} on {case.gpus} GPUs"
    what = f"{where}, {case.micro_batch_size} image{'s' * (case.micro_batch_size > 1)} at a time"
    sums = tuple(total(items) for items in (memory.states, memory.moving, memory.overhead))
    return Comparison(what, case.bytes, memory.total_bytes, sums)
