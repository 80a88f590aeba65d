"""Drawing pictures with a student."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from piflow_cli.core.flow import generators_of, randn_like_seeded
from piflow_cli.core.sampling import Stopwatch, sample_student
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.sample.open import open_student
from piflow_cli.engine.sample.request import NEGATIVE_SCALE, TextRequest
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.errors import DataError
from piflow_cli.io.pictures import to_pictures

if TYPE_CHECKING:
    from PIL.Image import Image
from piflow_cli.engine.students.settings import sampling_settings

SMALL_BATCH, SMALL_POSITIONS = 64, 32 * 32
"""Pictures a forward pass where none is asked for, up to this many latent positions; larger ones go one by one."""


@dataclass(frozen=True)
class SampleResult:
    """Pictures and what made them; picture i belongs to prompts[i] and seeds[i].

    Args:
        images: 8-bit pictures.
        latents: (N, C, *S), float32, on the CPU.
        network_s, policy_s: wall time in the network and in the policy's rollouts.
        conditions: what was asked of a text-to-image student beside its prompt: size, guidance, negative prompt.
        warnings: what a user should know about these settings.
    """

    images: list[Image]
    latents: Tensor
    prompts: list[str]
    seeds: list[int]
    model: str
    settings: SamplingSettings
    network_s: float
    policy_s: float
    warnings: list[str] = field(default_factory=list)
    conditions: dict[str, object] = field(default_factory=dict)


def sample(
    prompts: Sequence[str],
    *,
    model: str | LoadedStudent | None = None,
    nfe: int | None = None,
    num_images: int = 1,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    width: int | None = None,
    height: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    negative_scale: float = NEGATIVE_SCALE,
    substeps: int | None = None,
    temperature: float | Literal["auto"] | None = None,
    h: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> SampleResult:
    """Sample pictures from a student.

    Args:
        prompts: what to draw; class names or indices for class models.
        model: an embedded student's name, a student or run folder, a hub id, or one that `open_student` opened; None
            is the embedded one that was trained for `nfe`.
        nfe, substeps, temperature, h: as `SamplingSettings`; None is what the student was trained for.
        num_images: pictures a prompt, with seeds seed, seed + 1, ...
        seeds: of the pictures of each prompt, in place of seed and num_images.
        width, height: pixels, for text-to-image students; None is the size they were trained at.
        guidance_scale: of a student whose network embeds it.
        negative_prompt, negative_scale: what to steer away from, and how much; it doubles the evaluations, and no
            student is trained with it.
        seed: of the first picture; a picture depends on its seed and prompt, not on the batch it was drawn in.
        batch_size: pictures a forward pass; None is 64 small pictures, or one large one.
        device: auto, cpu, cuda, cuda:N or mps; an opened student stays where it is.
        on_progress: called with (evaluations done, evaluations wanted), an evaluation being one picture's.

    Raises:
        DataError: an empty prompt, an unknown class, or numbers out of range.
        PolicyError: the student cannot be sampled so.
        ModelError, DeviceError: as `load_student` and `resolve_device`.
    """
    chosen_seeds = list(seeds) if seeds is not None else [seed + i for i in range(num_images)]
    _check_request(prompts, num_images=num_images, seeds=chosen_seeds, batch_size=batch_size)
    student = model if isinstance(model, LoadedStudent) else open_student(model, nfe=nfe, device=device)
    settings, warnings = sampling_settings(student, nfe=nfe, substeps=substeps, temperature=temperature, h=h)
    asked = TextRequest(width, height, guidance_scale, negative_prompt, negative_scale)
    asked.check(student, prompts)
    warnings = [*student.warnings, *warnings, *asked.warnings(student, prompts)]
    wanted = [(prompt, s) for prompt in prompts for s in chosen_seeds]
    shape = asked.latent_shape(student)
    size = batch_size or (SMALL_BATCH if math.prod(shape[-2:]) <= SMALL_POSITIONS else 1)
    stopwatch, latents, images = Stopwatch(), [], []
    for start in range(0, len(wanted), size):
        part = wanted[start : start + size]

        def report(done: int, _x: Tensor, start: int = start, count: int = len(part)) -> None:
            if on_progress is not None:
                on_progress(start * settings.nfe + done * count, len(wanted) * settings.nfe)

        generators = generators_of(s for _, s in part)
        noise = randn_like_seeded((len(part), *shape), generators, student.space.device)
        condition = asked.condition(student, [prompt for prompt, _ in part])
        sampled = sample_student(
            student.network,
            student.card.policy,
            noise,
            condition,
            settings=settings,
            generator=generators,
            stopwatch=stopwatch,
            on_step=report,
            policy_at=asked.policy_at(student, condition),
        )
        latents.append(sampled.cpu())
        images += to_pictures(student.space.decode(sampled).cpu())
    return SampleResult(
        images=images,
        latents=torch.cat(latents),
        prompts=[prompt for prompt, _ in wanted],
        seeds=[s for _, s in wanted],
        model=student.name,
        settings=settings,
        network_s=stopwatch.network_s,
        policy_s=stopwatch.policy_s,
        warnings=warnings,
        conditions=asked.facts(),
    )


def seeded_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (N, *shape), each row from its own seed, on the CPU."""
    return randn_like_seeded((len(seeds), *shape), generators_of(seeds), "cpu")


def _check_request(prompts: Sequence[str], *, num_images: int, seeds: Sequence[int], batch_size: int | None) -> None:
    if not prompts:
        raise DataError("no prompt was given")
    for prompt in prompts:
        if not prompt.strip():
            raise DataError("the prompt is empty; say what to draw, or a class name or index for a class model")
    least = [("num_images", num_images, 1), ("batch_size", 1 if batch_size is None else batch_size, 1)]
    for name, value, smallest in (*least, *(("seed", seed, 0) for seed in seeds)):
        if value < smallest:
            raise DataError(f"{name} is {value}; it must be at least {smallest}")
