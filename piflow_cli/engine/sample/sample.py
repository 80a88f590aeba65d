"""Drawing pictures with a student, or with its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Literal

from torch import Tensor

from piflow_cli.core.flow import generators_of, randn_like_seeded
from piflow_cli.data.asked import Asked
from piflow_cli.data.files.references import illustrated
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.sample.artist import StudentArtist, TeacherArtist, TeacherSampling
from piflow_cli.engine.sample.check import check_pictures, check_request
from piflow_cli.engine.sample.early import EarlyCheck
from piflow_cli.engine.sample.job import Drawn, SampleJob, SampleResult
from piflow_cli.engine.sample.open import OpenTeacher, open_student
from piflow_cli.engine.sample.request import NEGATIVE_SCALE, TextRequest, prompt_warnings, size_warnings
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.engine.students.settings import checked, sampling_settings
from piflow_cli.errors import DataError
from piflow_cli.io.texts.names import user_path

SMALL_BATCH, SMALL_POSITIONS = 64, 32 * 32
"""Pictures a forward pass where none is asked for, up to this many latent positions; larger ones go one by one."""
TEACHER_STEPS = 32
OWN = "own"
"""Euler steps of a teacher where none are asked for."""


def sample(
    prompts: Sequence[str | Asked],
    *,
    model: str | LoadedStudent | OpenTeacher | None = None,
    references: Sequence[str | Path] = (),
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
    steps: int | None = None,
    shift: float | Literal["own"] | None = None,
    frames: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    together: Together | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_picture: Callable[[Drawn], None] | None = None,
) -> SampleResult:
    """Sample pictures from a student or a teacher.

    Args:
        prompts: what to draw; class names or indices for class models. An `Asked` may have a seed of its own.
        model: an embedded student's name, a student or run folder, a hub id, or what `open_student` or `open_teacher`
            opened; None is the embedded student that was trained for `nfe`.
        references: files of the pictures that every prompt is about which names none itself, for models that edit.
        nfe, substeps, temperature, h: as `SamplingSettings`; None is what the student was trained for.
        num_images: pictures a prompt, with seeds seed, seed + 1, ...
        seeds: of the pictures of each prompt, in place of seed and num_images; one given twice is drawn once.
        width, height: pixels, for text-to-image students; None is the size they were trained at, or with references
            what the base's own pipeline makes of them.
        frames: of videos, for students that draw them; None is as many as they were trained at.
        guidance_scale: of a student whose network embeds it.
        negative_prompt, negative_scale: what to steer away from, and how much; it doubles the evaluations, and no
            student is trained with it.
        seed: of the first picture; a picture depends on its seed and prompt, not on the batch it was drawn in.
        batch_size: pictures a forward pass; None is 64 small pictures, or one large one.
        device: auto, cpu, cuda, cuda:N or mps; an opened student stays where it is.
        steps: Euler steps of a teacher; None is 32.
        shift: of a teacher's time grid; "own" is that of its own scheduler at this size, None its student's.
        together: processes that draw this one request, as `joined` yields them; None is this process alone.
        on_progress, on_picture: as `SampleJob.run`.

    Raises:
        DataError: an empty prompt, an unknown class, numbers out of range, or references that cannot be read or that
            the model does not take.
        PolicyError: the student cannot be sampled so.
        SamplingError: latents or pictures that are not finite.
        ModelError, DeviceError: as `load_student` and `resolve_device`.
    """
    job = prepare(
        about(prompts, references),
        request=TextRequest(width, height, guidance_scale, negative_prompt, negative_scale, frames),
        model=model,
        nfe=nfe,
        num_images=num_images,
        seed=seed,
        seeds=seeds,
        substeps=substeps,
        temperature=temperature,
        h=h,
        steps=steps,
        shift=shift,
        batch_size=batch_size,
        device=device,
    )
    return job.run(together=together, on_progress=on_progress, on_picture=on_picture)


def prepare(
    prompts: Sequence[str | Asked],
    *,
    request: TextRequest | None = None,
    model: str | LoadedStudent | OpenTeacher | None = None,
    nfe: int | None = None,
    num_images: int = 1,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    substeps: int | None = None,
    temperature: float | Literal["auto"] | None = None,
    h: float | None = None,
    steps: int | None = None,
    shift: float | Literal["own"] | None = None,
    batch_size: int | None = None,
    device: str = "auto",
) -> SampleJob:
    """Check a request as a whole; `request` is what is asked beside prompts, the rest and errors as `sample`."""
    asked = about(prompts)
    check_request(asked, num_images=num_images, seed=seed, seeds=seeds, batch_size=batch_size)
    request = request or TextRequest()
    request.check_numbers()
    changes = {"nfe": nfe, "substeps": substeps, "temperature": temperature, "h": h}
    if isinstance(model, LoadedStudent | OpenTeacher):
        opened = model
    else:
        opened = open_student(model, nfe=nfe, device=device, early=EarlyCheck(asked, request, changes))
    check_pictures([len(item.references) for item in asked], opened.space.num_pictures, name=opened.name)
    texts, given = [item.prompt for item in asked], illustrated([(item.prompt, item.references) for item in asked])
    request = request.of_size_about(opened.space, given)
    if isinstance(opened, OpenTeacher):
        request.check_teacher(opened.space, texts, {key for key, value in changes.items() if value is not None})
        grid = _teacher_grid(opened, request.latent_shape(opened.space), steps=steps, shift=shift)
        artist = TeacherArtist(opened.name, opened.teacher, grid, opened.dtype)
        warnings = [*opened.warnings]
    else:
        if steps is not None or shift is not None:
            raise DataError(
                "steps and shift are a teacher's; a student's evaluations are its nfe, its shift as trained"
            )
        settings, found = sampling_settings(opened, **changes)
        request.check(opened, texts)
        artist = StudentArtist(opened, settings, request)
        warnings = [*opened.warnings, *found, *request.warnings(opened)]
    shape = request.latent_shape(artist.space)
    usual = SMALL_BATCH if math.prod(shape[1:]) <= SMALL_POSITIONS else 1
    counted = {"seed": seed, "seeds": seeds, "number": num_images}
    wanted = [(prompt, own) for item, prompt in zip(asked, given, strict=True) for own in _seeds(item, **counted)]
    return SampleJob(
        artist=artist,
        asked=request,
        wanted=wanted,
        pictures_a_prompt=len(wanted) // len(asked),
        shape=shape,
        batch_size=batch_size or usual,
        warnings=[*warnings, *size_warnings(artist.space, request), *prompt_warnings(artist.space, texts)],
    )


def about(prompts: Sequence[str | Asked], references: Sequence[str | Path] = ()) -> list[Asked]:
    """What is asked for, about `references` wherever a prompt names no pictures of its own."""
    asked, paths = (
        [Asked(item) if isinstance(item, str) else item for item in prompts],
        tuple(map(user_path, references)),
    )
    return [item if item.references else replace(item, references=paths) for item in asked]


def _teacher_grid(
    opened: OpenTeacher, shape: tuple[int, ...], *, steps: int | None, shift: float | Literal["own"] | None
) -> TeacherSampling:
    """The time grid of a teacher for latents of a shape; errors as `Teacher.own_shift`."""
    nfe = TEACHER_STEPS if steps is None else steps
    if shift == OWN:
        sides = opened.teacher.backbone.layout.sides
        positions = math.prod(shape[-len(sides) :]) // math.prod(sides)
        shift = opened.teacher.own_shift(positions, num_steps=nfe).m
    return checked(TeacherSampling, {"nfe": nfe, "shift": opened.shift.m if shift is None else shift})


def _seeds(item: Asked, *, seed: int, seeds: Sequence[int] | None, number: int) -> list[int]:
    """Seeds of one prompt's pictures."""
    if seeds is not None:
        return list(seeds)
    return list(islice(count(seed if item.seed is None else item.seed), number))


def seeded_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (N, *shape), each row from its own seed, on the CPU."""
    return randn_like_seeded((len(seeds), *shape), generators_of(seeds), "cpu")
