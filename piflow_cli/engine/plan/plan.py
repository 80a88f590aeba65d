"""What a run will cost, by arithmetic from configs alone: parameters, memory, disk, steps. No weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from piflow_cli.core.interfaces import Part, Strategy
from piflow_cli.engine.plan.activations import FP32, Setup, teacher_passes
from piflow_cli.engine.plan.batches import micro_batches
from piflow_cli.engine.plan.cache import CacheEstimate, LatentEstimate, estimate_cache, estimate_latents
from piflow_cli.engine.plan.checks import check_sizes
from piflow_cli.engine.plan.memory import SHARDED_OPTIMIZER_BYTES, Memory, estimate_memory
from piflow_cli.engine.plan.model import ModelFacts, model_facts
from piflow_cli.engine.plan.published import Comparison, comparisons
from piflow_cli.errors import DataError
from piflow_cli.preset import Preset

DEFAULT_GPUS = (1, 2, 4, 8, 32)


@dataclass(frozen=True)
class BatchShare:
    """How the preset's batch is made up on some number of GPUs; `problem` says why it cannot be, and what could."""

    gpus: int
    micro_batch_size: int | None
    accumulation: int | None
    problem: str = ""


@dataclass(frozen=True)
class Plan:
    """Estimates of a run; sizes in bytes. Evaluations are at most: guidance may act on a part of the noise levels."""

    preset: str
    facts: ModelFacts
    parts: tuple[Part, ...]
    steps: int
    batch_size: int
    gpus_without_accumulation: int
    shares: tuple[BatchShare, ...]
    memory: tuple[Memory, ...]
    segments_a_sample: int
    teacher_passes: int
    num_intermediates: int
    embedding_cache: CacheEstimate | None
    latent_cache: LatentEstimate | None
    checkpoint_bytes: int
    checkpoints: int
    published: tuple[Comparison, ...]

    @property
    def images(self) -> int:
        """Samples in all."""
        return self.steps * self.batch_size

    @property
    def student_evaluations(self) -> int:
        """Forward passes of the student, a sample each."""
        return self.images * self.segments_a_sample

    @property
    def teacher_evaluations(self) -> int:
        """Forward passes of the teacher, a sample each."""
        return self.student_evaluations * self.num_intermediates * self.teacher_passes

    @property
    def student_bytes(self) -> int:
        """The student's folder: its own weights in float32."""
        return self.facts.trainable * FP32

    @property
    def disk_bytes(self) -> int:
        """The run's folder at its fullest: kept checkpoints, the one being written, and the student beside its next."""
        return self.checkpoint_bytes * self.checkpoints + 2 * self.student_bytes

    def memory_bytes(self, strategy: Strategy, gpus: int) -> int:
        """Memory of each of `gpus` GPUs; KeyError where it was not planned for."""
        return {(m.strategy, m.gpus): m.total_bytes for m in self.memory}[strategy, gpus]

    def to_dict(self) -> dict[str, Any]:
        """All estimates by name."""
        facts, encoders = self.facts, sum(part.parameters for part in self.parts if part.is_encoder)
        cache, latents = self.embedding_cache, self.latent_cache
        return {
            "preset": self.preset,
            "teacher_parameters": facts.frozen,
            "trainable_parameters": facts.trainable,
            "lora_parameters": facts.lora,
            "head_parameters": facts.head,
            "other_trainable_parameters": facts.modules,
            "text_encoder_parameters": encoders,
            "autoencoder_parameters": sum(part.parameters for part in self.parts) - encoders,
            "parts": [asdict(part) for part in self.parts],
            "steps": self.steps,
            "batch_size": self.batch_size,
            "gpus_without_accumulation": self.gpus_without_accumulation,
            "batches": [asdict(share) for share in self.shares],
            "images": self.images,
            "student_evaluations": self.student_evaluations,
            "teacher_evaluations": self.teacher_evaluations,
            "memory": [asdict(memory) | {"total_bytes": memory.total_bytes} for memory in self.memory],
            "embedding_cache": cache
            and {**asdict(cache), "prompt_bytes": cache.prompt_bytes, "total_bytes": cache.total_bytes},
            "latent_cache": latents
            and {**asdict(latents), "item_bytes": latents.item_bytes, "total_bytes": latents.total_bytes},
            "checkpoint_bytes": self.checkpoint_bytes,
            "student_bytes": self.student_bytes,
            "disk_bytes": self.disk_bytes,
            "published": [asdict(case) | {"difference": case.difference} for case in self.published],
        }


def plan(preset: Preset, *, gpus: Sequence[int] = ()) -> Plan:
    """Estimate a run from the teacher's config alone.

    Args:
        preset: the recipe.
        gpus: numbers of GPUs that share the batch; none plans for `DEFAULT_GPUS`.

    Raises:
        ModelError: the teacher's config cannot be had.
        PresetError: a size that the teacher's autoencoder cannot do.
        DataError: the batch divides over none of `gpus`, or the prompts are here and cannot be read.
    """
    check_sizes(preset)
    settings = preset.training
    shares = [_share(preset, number) for number in gpus or DEFAULT_GPUS]
    if gpus and all(share.problem for share in shares):
        raise DataError(shares[0].problem)
    facts, parts = model_facts(preset), preset.teacher.pipeline_parts()
    prompts = preset.data.prompt_facts(frames=preset.teacher.num_frames)
    return Plan(
        preset=preset.name,
        facts=facts,
        parts=parts,
        steps=settings.steps,
        batch_size=settings.batch_size,
        gpus_without_accumulation=settings.batch_size // (settings.micro_batch_size or settings.batch_size),
        shares=tuple(shares),
        memory=tuple(_memory(preset, facts, parts, shares)),
        segments_a_sample=_segments(preset),
        teacher_passes=teacher_passes(preset, facts),
        num_intermediates=preset.objective.num_intermediates,
        embedding_cache=estimate_cache(preset, facts, prompts),
        latent_cache=estimate_latents(preset, facts, prompts),
        checkpoint_bytes=_checkpoint_bytes(facts),
        checkpoints=settings.checkpoints_kept + 1,
        published=tuple(comparisons(preset, facts, parts)),
    )


def run_bytes(preset: Preset) -> int:
    """Disk that a run needs at its fullest: kept checkpoints, the one being written, two students, two of the best."""
    facts, students = model_facts(preset), 4 if preset.validation.every else 2
    return _checkpoint_bytes(facts) * (preset.training.checkpoints_kept + 1) + students * facts.trainable * FP32


def _checkpoint_bytes(facts: ModelFacts) -> int:
    """Weights, average and optimiser of what trains; the optimiser is counted as AdamW in float32."""
    return facts.trainable * (2 * FP32 + SHARDED_OPTIMIZER_BYTES)


def _segments(preset: Preset) -> int:
    """Student evaluations of a sample: one, or without pictures one a segment of the walk."""
    return preset.objective.num_losses(preset.sampling, has_images=preset.data.has_images)


def _memory(preset: Preset, facts: ModelFacts, parts: tuple[Part, ...], shares: Sequence[BatchShare]) -> list[Memory]:
    """Memory under DDP, then under FSDP2, wherever the batch divides."""
    cached = preset.data.cache is not None
    found = []
    for sharded in (False, True):
        for share in shares:
            if share.problem or (sharded and share.gpus == 1):
                continue
            strategy: Strategy = "one GPU" if share.gpus == 1 else "FSDP2" if sharded else "DDP"
            backward_passes = share.accumulation * _segments(preset)
            setup = Setup(strategy, share.gpus, share.micro_batch_size, backward_passes > 1, cached)
            found.append(estimate_memory(preset, facts, parts, setup))
    return found


def _share(preset: Preset, gpus: int) -> BatchShare:
    try:
        return BatchShare(gpus, *micro_batches(preset, gpus))
    except DataError as error:
        return BatchShare(gpus, None, None, f"{error}. {_remedy(preset, gpus)}")


def _remedy(preset: Preset, gpus: int) -> str:
    """What would divide."""
    batch, micro = preset.training.batch_size, preset.training.micro_batch_size or 1
    if batch % gpus == 0:
        share = batch // gpus
        fits = next(size for size in range(min(share, micro), 0, -1) if share % size == 0)
        return f"Use --set training.micro_batch_size={fits}."
    divisors = [n for n in range(1, batch + 1) if batch % n == 0]
    near = [max(n for n in divisors if n < gpus), *(n for n in divisors if n > gpus)][:2]
    unit = gpus * micro
    sizes = [size for size in (batch // unit * unit, (batch // unit + 1) * unit) if size]
    return (
        f"{' or '.join(map(str, near))} GPUs share it; {gpus} share a training.batch_size of "
        f"{' or '.join(map(str, sizes))}."
    )
