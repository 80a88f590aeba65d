"""What a benchmark hands out: its rows, and all that their numbers depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from piflow_cli import __version__
from piflow_cli.engine.benchmark.doubts import doubts, heading
from piflow_cli.engine.benchmark.gauge import BenchmarkRow, Gauge
from piflow_cli.engine.benchmark.proof.intervals import method_of
from piflow_cli.engine.benchmark.proof.protocol import protocol_of, short_hash
from piflow_cli.engine.benchmark.proof.seeds import method
from piflow_cli.engine.benchmark.rows import Measured
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.io.texts.json_text import json_text

NONE = "none"
"""What the reference is called where no metric compares pictures to others."""


@dataclass(frozen=True)
class Published:
    """A row of somebody's paper: its scores by column."""

    model: str
    nfe: int
    scores: dict[str, float]


@dataclass(frozen=True)
class BenchmarkResult:
    """A table and all that its numbers depend on.

    Args:
        rows: students first, then teachers.
        titles: heading of each column of scores, which names the detector where it is not the papers' Inception.
        better: "lower" or "higher", by column.
        samples: pictures a row; scores of different numbers do not compare.
        seed: of noise and subsets, the first of several.
        seeds: all of them, where there are several.
        prompts, num_prompts: the list that pictures were asked from in turn, and how many of it; None for class models,
            which are asked for their classes in turn.
        reference, reference_samples: what pictures are compared to; 0 where the statistics do not say how many.
        detector: what features are of.
        models: by metric, the model of its own that it is measured by.
        references: by metric, what it compares pictures to, where that is another reference.
        teacher_rows: the rows that `fid_to_teacher`, ratios and gaps refer to, in words.
        warnings: what a user should know.
        doubts: what makes scores doubtful: too few pictures or references for an FID.
        num_processes: that drew the pictures, each some of the batches.
        intervals: how the rows' intervals were made; None where there are none.
        protocol: all that the numbers depend on and that is no row's own, by name.
        fingerprint: twelve digits of it; numbers of equal ones compare.
        recipe: the paper's protocol that was asked for, None without one.
        published: rows of that paper.
        departures: what is not as in the paper, or not known to be.
        frames: of a sample where those are videos, else 1.
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
    models: dict[str, str] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    prompts: str | None = None
    num_prompts: int | None = None
    num_processes: int = 1
    piflow_version: str = __version__
    intervals: str | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    recipe: str | None = None
    published: tuple[Published, ...] = ()
    departures: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    frames: int = 1

    def to_json(self) -> str:
        """Everything, for programs."""
        return json_text(asdict(self))


def result_of(
    gauge: Gauge,
    measured: Measured,
    students: Sequence[LoadedStudent],
    warnings: Sequence[str],
    *,
    seeds: Sequence[int] = (),
) -> BenchmarkResult:
    """The table of measured rows, with what they were measured by.

    Args:
        seeds: that rows are means over, where there are several.
    """
    several = tuple(seeds) if len(seeds) > 1 else ()
    panel, columns = gauge.panel, {column: metric for metric in gauge.metrics for column in metric.columns}
    compared = {
        metric.name: measured.references.get(metric.reads) for metric in gauge.metrics if metric.needs_reference
    }
    reference = next((found for found in compared.values() if found is not None), None)
    listed = gauge.subjects.name is not None
    protocol = protocol_of(replace(gauge, of_rows=measured.of_rows), measured.references, students) | (
        {"seed": list(several)} if several else {}
    )
    return BenchmarkResult(
        rows=tuple(measured.rows),
        titles={column: panel.title(metric, heading(column)) for column, metric in columns.items()},
        better={column: metric.better for column, metric in columns.items()},
        samples=gauge.samples,
        seed=gauge.seed,
        reference=NONE if reference is None else reference.name,
        reference_samples=0 if reference is None else reference.num_samples,
        detector=panel.detector.name,
        models=panel.names(gauge.metrics),
        references={name: found.name for name, found in compared.items() if found and found.name != reference.name},
        teacher_rows=tuple(f"{row.model} {row.method} {row.steps} steps" for row in measured.anchors),
        warnings=tuple(dict.fromkeys([*warnings, *([] if gauge.cache is None else gauge.cache.said)])),
        device=str(gauge.device),
        doubts=tuple(doubts(gauge.metrics, panel, measured.references, samples=gauge.samples)),
        prompts=gauge.subjects.name,
        num_prompts=min(len(gauge.subjects), gauge.samples) if listed else None,
        num_processes=gauge.together.num_processes,
        protocol=protocol,
        fingerprint=short_hash(protocol),
        intervals=_method(measured, several),
        seeds=several,
        frames=students[0].space.frames,
    )


def _method(measured: Measured, seeds: Sequence[int]) -> str | None:
    """How intervals were made, None where there are none."""
    if not any(row.intervals for row in measured.rows):
        return None
    if seeds:
        return method(len(seeds))
    return method_of({len(scores) for row in measured.rows for scores in row.without.values()})
