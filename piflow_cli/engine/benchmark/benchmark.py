"""Measuring students beside their teacher: every sampler starts from the same noise and the same classes or prompts.

FID falls with the number of pictures and means nothing across detectors, so that a result always says how many, which
detector and which reference. Pictures are measured with the rounding that a saved file would have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import torch

from piflow_cli.core.interfaces import Space
from piflow_cli.data.prompt_lists import read_prompt_list
from piflow_cli.engine.benchmark.check import check_request, check_rows
from piflow_cli.engine.benchmark.drawn.cache import RowCache
from piflow_cli.engine.benchmark.gauge import Gauge
from piflow_cli.engine.benchmark.proof.intervals import USUAL_PARTS, Intervals, check_intervals
from piflow_cli.engine.benchmark.proof.seeds import check_seeds
from piflow_cli.engine.benchmark.quantized.ways import check_ways, looking_for_grids, open_each
from piflow_cli.engine.benchmark.questions import Subjects
from piflow_cli.engine.benchmark.result import BenchmarkResult, result_of
from piflow_cli.engine.benchmark.rows import Progress, measure_seeds
from piflow_cli.engine.benchmark.samplers import (
    Sampler,
    patch_px_of,
    student_sampler,
    teacher_key,
    teacher_of,
    teacher_sampler,
)
from piflow_cli.engine.benchmark.showing.album import Album
from piflow_cli.engine.benchmark.yardsticks import (
    check_prompts,
    check_taken_pictures,
    check_takes,
    choose_detector,
    choose_references,
    choose_subjects,
    reference_unread,
)
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.sample.open import Dtype
from piflow_cli.engine.sample.sample import SMALL_POSITIONS
from piflow_cli.engine.students.device import DTYPES, resolve_device
from piflow_cli.engine.students.find import check_student, default_students
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.engine.students.settings import sampling_settings
from piflow_cli.engine.students.shared import Bases
from piflow_cli.errors import DataError
from piflow_cli.metrics.metric import Metric
from piflow_cli.metrics.panel import Panel

SMALL_BATCH = 500
"""Pictures a forward pass where none is asked for, up to `SMALL_POSITIONS` latent positions; larger ones go singly."""
N = TypeVar("N", int, float)


def benchmark(
    *,
    metrics: Sequence[str] = ("fid",),
    models: Sequence[str | LoadedStudent] | None = None,
    nfe: Sequence[int] | None = None,
    h: Sequence[float] | None = None,
    samples: int = 5000,
    prompts: str | None = None,
    reference: str | None = None,
    detector: str | None = None,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    dtype: Dtype = "auto",
    teacher_steps: Sequence[int] = (),
    solvers: Sequence[str] = ("euler",),
    intervals: int = USUAL_PARTS,
    album: Album | None = None,
    quantize: Sequence[str] = (),
    cache: RowCache | None = None,
    together: Together | None = None,
    on_progress: Progress | None = None,
) -> BenchmarkResult:
    """Measure students, and their teachers where asked for; all that can fail is checked before the first picture.

    Args:
        metrics: registered metrics, such as fid or clip-score, each perhaps by a model of its own, NAME=FOLDER or
            NAME=HUB-ID; docs/benchmark.md has all.
        models: students as `open_student` takes them, or loaded ones; None is `default_students`.
        nfe: evaluations to sample every student with; None is what each was trained for.
        h: stochasticity between segments to sample every student with; None is what each was trained for.
        samples: pictures a row; picture i shows class i % num_classes, or prompt i % the number of prompts.
        prompts: of text-to-image students: a .txt, .jsonl (with a whole number `label`, for accuracy), .csv, .parquet,
            a folder of these or a data set of the hub; rows of .jsonl and .csv may name `references`, pictures that
            the prompt is about. None is the embedded list for students of the embedded teacher.
        reference: digits, emoji, an .npz or .safetensors with statistics, a folder of pictures, or teacher, the row of
            its most steps; None is the embedded one for students of an embedded teacher, else the teacher.
        detector: digits-cnn, emoji-cnn, pixels, a folder or hub id of a vision model of transformers, or a TorchScript
            file or URL; None is the embedded one likewise, else pixels.
        seed: of the noise, which is the same for every row.
        seeds: several of them in place of `seed`: each row is drawn from all, numbers are means over them, with
            intervals between them. None is `seed` alone.
        batch_size: pictures a forward pass; it does not change the noise. None is 500 small pictures, or one large one.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: of the networks; auto is that of `open_student`. Times, policies and solvers stay float32.
        teacher_steps: steps to sample the teacher with; empty leaves the teacher out and unloaded.
        solvers: the teacher's solvers: euler, heun, unipc, dpmsolver++.
        intervals: parts of a row's pictures that are left out in turn for intervals of 95%; 0 makes none.
        quantize: ways to hold the base of every text-to-image student: none, bnb-8bit, bnb-4bit, torchao-int8,
            torchao-fp8; a row for each, compared to that of none. The teacher's base is whole then. Empty leaves it to
            the students.
        cache: keeps what was seen of the teacher's pictures from one benchmark to the next; None draws all of them.
        album: keeps the first pictures of every row, those that the main process draws.
        together: processes that measure together, as `joined` yields them, each drawing whole batches in turn; all of
            them return the result. None is this process alone.
        on_progress: called when the first batch begins, and after each.

    Raises:
        DataError: a number out of range; prompts, a reference or a detector that are missing or do not fit.
        PolicyError: a student that cannot be sampled at an NFE.
        ModelError, DeviceError: as `open_student`.
        MissingExtraError: a quantisation's library is not installed.
        SamplingError: a row's latents or pictures are not finite; there is no score of black pictures.
        PiflowError: an unknown metric or solver.
    """
    together = together or Together()
    sources = default_students() if models is None else models

    def check() -> tuple[list[int], list[Metric], torch.device, list[str | None]]:
        several = [seed] if seeds is None else check_seeds(seeds)
        numbers = {"samples": samples, "batch_size": batch_size, "seed": several[0], "steps": teacher_steps}
        asked = check_request(metrics, solvers, **numbers)
        check_intervals(intervals)
        check_rows(models=models or (), nfe=nfe or (), h=h or (), quantize=quantize)
        check_rows(solvers=solvers, teacher_steps=teacher_steps)
        target = resolve_device(device)
        ways = check_ways(quantize, sources, device=target)
        for source in sources:
            if isinstance(source, str):
                check_student(source)
        return several, asked, target, ways

    several, asked, target, ways = together.each_does(check)
    seed, bases = several[0], Bases()
    listed = None if prompts is None else together.main_does(lambda: read_prompt_list(prompts))

    def load() -> tuple[list[LoadedStudent], list[Metric], Subjects, Panel, list[Sampler], list[str]]:
        students = open_each(sources, ways, device=device, dtype=dtype, bases=bases)
        _check_comparable(students)
        check_takes(asked, students)
        patched, told = _on_patches(asked, students, with_grid=bool(quantize))
        subjects = choose_subjects(listed, students)
        check_prompts(patched, subjects)
        check_taken_pictures(subjects, students[0].space, samples)
        samplers, warnings = _student_samplers(students, nfe, h, seed=seed, whole_teacher=bool(quantize))
        own = Panel.of(patched, choose_detector(detector, students, patched, device=target), device=target)
        told += reference_unread(reference, patched)
        return students, patched, subjects, own, samplers, [*told, *warnings]

    students, chosen, subjects, panel, samplers, warnings = together.each_does(load)
    gauge = Gauge(
        metrics=chosen,
        panel=panel,
        references=together.main_does(
            lambda: choose_references(
                reference, students, panel, chosen, asked_detector=detector, with_teacher=bool(teacher_steps)
            )
        ),
        subjects=subjects,
        samples=samples,
        batch_size=batch_size or _usual_batch(students[0].space),
        seed=seed,
        device=target,
        together=together,
        intervals=Intervals(intervals, seed),
        album=album,
        cache=cache,
    )
    together.each_does(lambda: gauge.rehearse(students[0].space))
    if teacher_steps:
        samplers += together.each_does(
            lambda: _teacher_samplers(
                students,
                teacher_steps,
                solvers,
                bases=bases,
                device=target,
                dtype=DTYPES.get(dtype),
                whole=bool(quantize),
            )
        )
    measured = measure_seeds(gauge, samplers, several, on_progress)
    return together.main_does(lambda: result_of(gauge, measured, students, warnings, seeds=several))


def _on_patches(
    metrics: Sequence[Metric], students: Sequence[LoadedStudent], *, with_grid: bool
) -> tuple[list[Metric], list[str]]:
    """The metrics of pictures in the patches of these students' networks, and warnings.

    Args:
        with_grid: whether grids are to be looked for where they can be, asked for or not.

    Raises:
        DataError: patches differ, and a metric is about them.
    """
    if not with_grid and all(metric.of_patches is None for metric in metrics):
        return list(metrics), []
    patch_px = patch_px_of(students)
    patched = [metric.on_patches(patch_px) for metric in metrics]
    return looking_for_grids(patched, patch_px, students[0]) if with_grid else (patched, [])


def _usual_batch(space: Space) -> int:
    return SMALL_BATCH if math.prod(space.latent_shape[1:]) <= SMALL_POSITIONS else 1


def _check_comparable(students: Sequence[LoadedStudent]) -> None:
    """Refuse students that cannot start from the same noise and classes or prompts."""
    if not students:
        raise DataError("no model to measure was given")
    first = students[0]
    for student in students[1:]:
        (what, here), (other, there) = first.space.identity(), student.space.identity()
        if (what, here) != (other, there):
            raise DataError(
                f"{first.name} has {what} {here}, {student.name} has {other} {there}: they cannot share noise and "
                "labels. Benchmark them one by one."
            )


def _student_samplers(
    students: Sequence[LoadedStudent],
    nfe: Sequence[int] | None,
    h: Sequence[float] | None,
    *,
    seed: int,
    whole_teacher: bool,
) -> tuple[list[Sampler], list[str]]:
    """A sampler for each student, NFE and h, and warnings; policies that cannot do it are refused here."""
    samplers, warnings = [], []
    for student, evaluations, own_h in product(students, _distinct(nfe), _distinct(h)):
        settings, found = sampling_settings(student, nfe=evaluations, h=own_h)
        warnings += found
        samplers.append(student_sampler(student, settings, seed=seed, whole_teacher=whole_teacher))
    return samplers, warnings


def _distinct(values: Sequence[N] | None) -> Sequence[N | None]:
    """Each value once, in order; None for what a student was trained for."""
    return list(dict.fromkeys(values)) if values else [None]


def _teacher_samplers(
    students: Sequence[LoadedStudent],
    steps: Sequence[int],
    solvers: Sequence[str],
    *,
    bases: Bases,
    device: torch.device,
    dtype: torch.dtype | None,
    whole: bool,
) -> list[Sampler]:
    """Samplers of each teacher of the students, on each time grid of theirs, for every solver and number of steps.

    A teacher has a module of its own over the weights of its students' base, and their dtype where none is given.
    """
    grids = {teacher_key(teacher_of(s, whole=whole), s.card.sampling.time_shift): s for s in students}
    samplers = []
    for student in grids.values():
        settings, shift = teacher_of(student, whole=whole), student.card.sampling.time_shift
        teacher = bases.teacher(settings, device=device, dtype=dtype or student.dtype)
        for solver in dict.fromkeys(solvers):
            for count in dict.fromkeys(steps):
                samplers.append(teacher_sampler(teacher, solver, count, settings=settings, shift=shift))
    return samplers
