"""Measuring students beside their teacher: every sampler starts from the same noise and the same balanced classes.

FID falls with the number of pictures and means nothing across detectors, so that a result always says how many, which
detector and which reference. Pictures are measured with the rounding that a saved file would have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from piflow_cli import __version__, registry
from piflow_cli.engine.gauge import Anchor, BenchmarkRow, Gauge
from piflow_cli.engine.models import DEFAULT_STUDENT, DTYPES, LoadedStudent, load_student, resolve_device
from piflow_cli.engine.sample import sampling_settings
from piflow_cli.engine.samplers import Sampler, student_sampler, teacher_key, teacher_sampler
from piflow_cli.engine.solvers import SOLVERS
from piflow_cli.errors import DataError, PiflowError
from piflow_cli.metrics.detectors import load_detector
from piflow_cli.metrics.features import Detector, Reference
from piflow_cli.metrics.metric import Metric
from piflow_cli.metrics.reference import load_reference

EMBEDDED_TEACHERS = {"zoo:digits": ("digits", "digits-cnn")}
"""The reference and the detector that ship with the package, by the source of the teacher."""
Progress = Callable[[int, int, str], None]
"""(done, total, what): both in pictures times evaluations, so that they grow evenly with time."""


@dataclass(frozen=True)
class BenchmarkResult:
    """A table and all that its numbers depend on.

    Args:
        rows: students first, then teachers.
        titles: heading of each column of scores, which names the detector where it is not the papers' Inception.
        better: "lower" or "higher", by column.
        samples: pictures a row; scores of different numbers do not compare.
        seed: of noise and subsets.
        reference, reference_samples: what pictures are compared to; 0 where the statistics do not say how many.
        detector: what features are of.
        teacher_rows: the rows that `fid_to_teacher` and `fid_ratio` refer to, in words.
        warnings: what a user should know.
    """

    rows: tuple[BenchmarkRow, ...]
    titles: dict[str, str]
    better: dict[str, str]
    samples: int
    seed: int
    reference: str
    reference_samples: int
    detector: str
    teacher_rows: tuple[str, ...]
    warnings: tuple[str, ...]
    device: str
    piflow_version: str = __version__

    def to_json(self) -> str:
        """Everything, for programs."""
        return json.dumps(asdict(self), indent=2)


def benchmark(
    *,
    metrics: Sequence[str] = ("fid",),
    models: Sequence[str | LoadedStudent] = (DEFAULT_STUDENT,),
    nfe: Sequence[int] | None = None,
    samples: int = 5000,
    reference: str | None = None,
    detector: str | None = None,
    seed: int = 0,
    batch_size: int = 256,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    teacher_steps: Sequence[int] = (),
    solvers: Sequence[str] = ("euler",),
    on_progress: Progress | None = None,
) -> BenchmarkResult:
    """Measure students, and their teachers where asked for; all that can fail is checked before the first picture.

    Args:
        metrics: registered metrics, such as fid, kid, is, precision-recall, accuracy.
        models: students as `load_student` takes them, or loaded ones.
        nfe: evaluations to sample every student with; None is what each was trained for.
        samples: pictures a row, with classes i % num_classes.
        reference: digits, an .npz or .safetensors with statistics, or a folder of pictures; None is the embedded one
            for students of the embedded teacher.
        detector: digits-cnn, or a TorchScript file or URL; None as for `reference`.
        seed: of the noise, which is the same for every row.
        batch_size: pictures a forward pass; it does not change the noise.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: of the networks; times, policies and solvers stay float32.
        teacher_steps: steps to sample the teacher with; empty leaves the teacher out and unloaded.
        solvers: the teacher's solvers: euler, heun, unipc, dpmsolver++.
        on_progress: called after each batch.

    Raises:
        DataError: a number out of range, a reference or detector that is missing or does not fit.
        PolicyError: a student that cannot be sampled at an NFE.
        ModelError, DeviceError: as `load_student` and `resolve_device`.
        PiflowError: an unknown metric or solver.
    """
    chosen = _check_request(metrics, solvers, samples=samples, batch_size=batch_size, seed=seed, steps=teacher_steps)
    target = resolve_device(device)
    students = [
        m if isinstance(m, LoadedStudent) else load_student(m, device=target, dtype=DTYPES[dtype]) for m in models
    ]
    _check_comparable(students)
    samplers, warnings = _student_samplers(students, nfe, seed=seed)
    gauge_detector = _load_detector(detector, students, chosen, device=target)
    gauge = Gauge(
        metrics=chosen,
        detector=gauge_detector,
        reference=_load_reference(reference, students, gauge_detector),
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        device=target,
    )
    gauge.rehearse(students[0].space)
    warnings += gauge.doubts()
    if teacher_steps:
        samplers += _teacher_samplers(students, teacher_steps, solvers, device=target, dtype=DTYPES[dtype])
    rows, anchors = _measure_all(gauge, samplers, on_progress)
    return _result(gauge, rows, anchors, warnings)


def _result(
    gauge: Gauge, rows: Sequence[BenchmarkRow], anchors: Sequence[BenchmarkRow], warnings: Sequence[str]
) -> BenchmarkResult:
    """The table of measured rows, with what they were measured by."""
    columns = {column: metric for metric in gauge.metrics for column in metric.columns}
    return BenchmarkResult(
        rows=tuple(rows),
        titles={column: gauge.detector.title(_heading(column)) for column in columns},
        better={column: metric.better for column, metric in columns.items()},
        samples=gauge.samples,
        seed=gauge.seed,
        reference=gauge.reference.name,
        reference_samples=gauge.reference.num_samples,
        detector=gauge.detector.name,
        teacher_rows=tuple(f"{row.model} {row.method} {row.steps} steps" for row in anchors),
        warnings=tuple(dict.fromkeys(warnings)),
        device=str(gauge.device),
    )


def _check_request(
    metrics: Sequence[str], solvers: Sequence[str], *, samples: int, batch_size: int, seed: int, steps: Sequence[int]
) -> list[Metric]:
    """The metrics asked for; everything that needs no model is checked."""
    if not metrics:
        raise DataError(f"no metric was asked for; known are {', '.join(registry.names('metric'))}")
    for solver in solvers:
        if solver not in SOLVERS:
            raise PiflowError(registry.unknown_name("solver", solver, list(SOLVERS)))
    limits = [("samples", samples, 2), ("batch_size", batch_size, 1), ("seed", seed, 0)]
    for name, value, least in limits + [("teacher_steps", count, 1) for count in steps]:
        if value < least:
            raise DataError(f"{name} is {value}; it must be at least {least}")
    return [registry.resolve("metric", name) for name in dict.fromkeys(metrics)]


def _check_comparable(students: Sequence[LoadedStudent]) -> None:
    """Refuse students that cannot start from the same noise and classes."""
    if not students:
        raise DataError("no model to measure was given")
    first = students[0]
    for student in students[1:]:
        here, there = (
            (tuple(s.space.latent_shape), s.space.num_classes, s.space.image_size_px) for s in (first, student)
        )
        if here != there:
            raise DataError(
                f"{first.name} has latents, classes and picture size {here}, {student.name} has {there}: they cannot "
                "share noise and labels. Benchmark them one by one."
            )


def _student_samplers(
    students: Sequence[LoadedStudent], nfe: Sequence[int] | None, *, seed: int
) -> tuple[list[Sampler], list[str]]:
    """A sampler for each student and NFE, and warnings; policies that cannot do it are refused here."""
    samplers, warnings = [], []
    for student in students:
        for evaluations in dict.fromkeys(nfe) if nfe else (None,):
            settings, found = sampling_settings(student, nfe=evaluations)
            warnings += found
            samplers.append(student_sampler(student, settings, seed=seed))
    return samplers, warnings


def _teacher_samplers(
    students: Sequence[LoadedStudent],
    steps: Sequence[int],
    solvers: Sequence[str],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Sampler]:
    """Samplers of each teacher of the students, on each time grid of theirs, for every solver and number of steps."""
    grids = {teacher_key(student.card.teacher, student.card.sampling.time_shift): student.card for student in students}
    samplers = []
    for card in grids.values():
        teacher = card.teacher.load(device=device, dtype=dtype)
        for solver in dict.fromkeys(solvers):
            for count in dict.fromkeys(steps):
                shift = card.sampling.time_shift
                samplers.append(teacher_sampler(teacher, solver, count, settings=card.teacher, shift=shift))
    return samplers


def _heading(column: str) -> str:
    """FID, KID and IS are written in capitals."""
    return column.upper() if len(column) <= 3 else column


def _embedded(students: Sequence[LoadedStudent]) -> tuple[str, str] | None:
    """The embedded reference and detector where every student's teacher is the embedded one they belong to."""
    found = {EMBEDDED_TEACHERS.get(student.card.teacher.source) for student in students}
    return found.pop() if len(found) == 1 else None


def _load_detector(
    detector: str | None, students: Sequence[LoadedStudent], metrics: Sequence[Metric], *, device: torch.device
) -> Detector:
    embedded = _embedded(students)
    if detector is None and embedded is None:
        raise DataError(
            "these students need a detector: pass --detector with the TorchScript Inception network of the papers "
            "(inception-2015-12-05.pt), as a file or URL"
        )
    name = detector if detector is not None else embedded[1]
    return load_detector(name, device=device, with_logits=any(metric.needs_logits for metric in metrics))


def _load_reference(reference: str | None, students: Sequence[LoadedStudent], detector: Detector) -> Reference:
    embedded = _embedded(students)
    if reference is None and embedded is None:
        raise DataError(
            "these students need a reference: pass --reference with a folder of real pictures, or statistics as .npz "
            "(mu and sigma, as ADM publishes them for ImageNet) or .safetensors"
        )
    return load_reference(reference if reference is not None else embedded[0], detector=detector)


def _measure_all(
    gauge: Gauge, samplers: Sequence[Sampler], on_progress: Progress | None
) -> tuple[list[BenchmarkRow], list[BenchmarkRow]]:
    """Rows in the order of the samplers, and those that the others are compared to: each teacher's of most steps."""
    done, total = 0, gauge.samples * sum(sampler.nfe for sampler in samplers)
    longest: dict[str, Sampler] = {}
    for sampler in samplers:
        if sampler.kind == "teacher" and sampler.steps > getattr(longest.get(sampler.teacher), "steps", 0):
            longest[sampler.teacher] = sampler
    anchors: dict[str, Anchor] = {}
    rows: dict[Sampler, BenchmarkRow] = {}
    for sampler in [*longest.values(), *(s for s in samplers if s not in longest.values())]:

        def advance(pictures: int, sampler: Sampler = sampler) -> None:
            nonlocal done
            done += pictures * sampler.nfe
            if on_progress is not None:
                on_progress(done, total, f"{sampler.model} {sampler.method} {sampler.nfe} NFE")

        row, features = gauge.measure(sampler, advance)
        if sampler in longest.values():
            anchors[sampler.teacher] = Anchor.of(row, features)
        elif sampler.teacher in anchors:
            row = anchors[sampler.teacher].compare(row, features)
        rows[sampler] = row
    return [rows[sampler] for sampler in samplers], [anchor.row for anchor in anchors.values()]
