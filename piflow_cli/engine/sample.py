"""Sampling pictures from a student, and saving them with what made them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from piflow_cli import __version__
from piflow_cli.core.flow import generators_of, randn_like_seeded
from piflow_cli.core.sampling import Stopwatch, sample_student
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.models import LoadedStudent
from piflow_cli.engine.open_student import open_student
from piflow_cli.engine.text_request import NEGATIVE_SCALE, TextRequest
from piflow_cli.errors import DataError, PolicyError
from piflow_cli.io.files import writable_folder, write_atomic
from piflow_cli.io.pictures import grid_picture, png_bytes, to_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_SUFFIXES = {".png"}
GRID_COLUMNS = 8
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


def sampling_settings(
    student: LoadedStudent,
    *,
    nfe: int | None = None,
    substeps: int | None = None,
    temperature: float | Literal["auto"] | None = None,
    h: float | None = None,
) -> tuple[SamplingSettings, list[str]]:
    """The student's own sampling settings with changes, checked against its policy, and warnings.

    Raises:
        PolicyError: out of range, or the policy cannot do it.
    """
    trained = student.card.sampling
    changes = {"nfe": nfe, "total_substeps": substeps, "temperature": temperature, "h": h}
    changed = trained.model_dump() | {key: value for key, value in changes.items() if value is not None}
    try:
        settings = SamplingSettings.model_validate(changed)
    except ValidationError as error:
        first = error.errors()[0]
        raise PolicyError(f"{first['loc'][0]}: {first['msg']} (got {first['input']!r})") from None
    student.card.policy.check_sampling(segments=settings.segments, shift=settings.shift)
    warnings = []
    if settings.nfe != trained.nfe:
        warnings.append(
            f"{student.name} was trained for {trained.nfe} NFE; {settings.nfe} may shift contrast and lose detail"
        )
    return settings, warnings


def save_samples(result: SampleResult, out: Path, *, grid: bool | None = None) -> list[Path]:
    """Write the pictures and return their paths.

    Args:
        result: what `sample` returned.
        out: a .png file, for one picture or a grid; else a folder, into which files are added without writing over any.
        grid: True writes one labelled picture of all in place of a file each, False only the files, None both where
            there are several prompts.

    Raises:
        StorageError: `out` cannot be written.
        DataError: several pictures for one file name.
    """
    one_file = out.suffix.lower() in PICTURE_SUFFIXES
    if out.suffix and not one_file and not out.is_dir():
        raise DataError(f"pictures are written as .png; {out.name} has the suffix {out.suffix}")
    folder = writable_folder(out.parent if one_file else out)
    if grid or (one_file and len(result.images) > 1):
        return [_save_grid(result, out if one_file else _free_path(folder, "grid"))]
    paths = []
    for image, prompt, seed in zip(result.images, result.prompts, result.seeds, strict=True):
        stem = re.sub(r"[^\w-]+", "-", prompt).strip("-")[:60] or "picture"
        path = out if one_file else _free_path(folder, f"{stem}-seed{seed}")
        write_atomic(path, png_bytes(image, _facts(result, prompt, seed)))
        paths.append(path)
    if grid is None and len(dict.fromkeys(result.prompts)) > 1:
        paths.append(_save_grid(result, _free_path(folder, "grid")))
    return paths


def _save_grid(result: SampleResult, path: Path) -> Path:
    """Write one picture of all: a row a prompt where each has several, else side by side, every one with its prompt."""
    prompts = dict.fromkeys(result.prompts)
    columns = len(result.images) // len(prompts)
    if columns > 1:
        picture = grid_picture(result.images, columns=columns, row_labels=list(prompts))
    else:
        columns = min(len(result.images), GRID_COLUMNS)
        picture = grid_picture(result.images, columns=columns, labels=result.prompts)
    write_atomic(path, png_bytes(picture, _facts(result, ", ".join(prompts), result.seeds[0])))
    return path


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


def _facts(result: SampleResult, prompt: str, seed: int) -> dict[str, str]:
    """What a PNG says of itself."""
    return {
        "prompt": prompt,
        "seed": str(seed),
        "nfe": str(result.settings.nfe),
        "model": result.model,
        "sampling": json.dumps(result.settings.model_dump()),
        **{key: str(value) for key, value in result.conditions.items()},
        "software": f"piflow {__version__}",
    }


def _free_path(folder: Path, stem: str) -> Path:
    path, number = folder / f"{stem}.png", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.png"
    return path
