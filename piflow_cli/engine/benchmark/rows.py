"""All rows of a benchmark, measured in an order in which each can be compared to its teacher's longest one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from piflow_cli.engine.benchmark.comparison import Anchor, with_gaps, with_intervals
from piflow_cli.engine.benchmark.gauge import BenchmarkRow, Gauge
from piflow_cli.engine.benchmark.proof.seeds import joined_rows
from piflow_cli.engine.benchmark.quantized.changes import Key, Whole, compared
from piflow_cli.engine.benchmark.samplers import Sampler
from piflow_cli.metrics.detectors.features import Reference
from piflow_cli.metrics.metric import WHOLE
from piflow_cli.metrics.panel import Seat

Progress = Callable[[int, int, str], None]
"""(done, total, what): both in pictures times evaluations, so that they grow evenly with time."""


class Measured(NamedTuple):
    """What came of it.

    Args:
        rows: in the order of the samplers.
        anchors: those that the others are compared to: each teacher's of most steps.
        references: what all were scored against, by what of pictures was read.
        of_rows: those of them that are a teacher's row.
    """

    rows: list[BenchmarkRow]
    anchors: list[BenchmarkRow]
    references: Mapping[Seat, Reference]
    of_rows: frozenset[Seat] = frozenset()


def measure_seeds(
    gauge: Gauge, samplers: Sequence[Sampler], seeds: Sequence[int], on_progress: Progress | None
) -> Measured:
    """Measure everything from each seed in turn, the gauge's first; numbers are means where there are several."""
    found: list[Measured] = []
    for number, seed in enumerate(seeds):
        own = gauge if number == 0 else gauge.of_seed(seed)

        def advance(done: int, total: int, what: str, number: int = number, seed: int = seed) -> None:
            said = what if len(seeds) == 1 else f"{what} seed {seed}"
            on_progress(number * total + done, len(seeds) * total, said)

        drawn = samplers if number == 0 else [sampler.with_seed(seed) for sampler in samplers]
        found.append(measure_all(own, drawn, None if on_progress is None else advance))
    return found[0]._replace(rows=joined_rows([measured.rows for measured in found]))


def measure_all(gauge: Gauge, samplers: Sequence[Sampler], on_progress: Progress | None) -> Measured:
    """Measure everything; what is measured is there in the main process alone, others only draw."""
    done = 0
    total = sum(sampler.nfe * (gauge.pictures_a_row - gauge.pictures_known(sampler)) for sampler in samplers)
    longest: dict[str, Sampler] = {}
    for sampler in samplers:
        known = longest.get(sampler.teacher)
        if sampler.kind == "teacher" and (known is None or sampler.steps > known.steps):
            longest[sampler.teacher] = sampler
    anchors: dict[str, Anchor] = {}
    rows: dict[Sampler, BenchmarkRow] = {}
    whole: dict[Key, Whole] = {}
    in_turn = [*longest.values(), *(s for s in samplers if s not in longest.values())]
    if on_progress is not None and in_turn:
        on_progress(0, max(1, total), in_turn[0].title)
    for sampler in in_turn:

        def advance(pictures: int, sampler: Sampler = sampler) -> None:
            nonlocal done
            done += pictures * sampler.nfe
            if on_progress is not None:
                on_progress(done, max(done, total), sampler.title)

        measured = gauge.measure(sampler, advance)
        if measured is None:
            continue
        row, seen = measured
        parts = gauge.intervals.parts_of(gauge.questions)
        if sampler in longest.values():
            anchor = Anchor.of(
                row,
                seen[WHOLE],
                detector=gauge.panel.detector.name,
                parts=parts,
                of_videos=sampler.space.frames > 1,
            )
            anchors[sampler.teacher] = anchor
            gauge = gauge.compared_to(seen, name=anchor.pictures.name)
        elif sampler.teacher in anchors:
            row = anchors[sampler.teacher].compare(row, seen[WHOLE], reference=gauge.references.get(WHOLE))
        rows[sampler] = compared(sampler, row, seen[WHOLE].features, parts=parts, known=whole)
    rows = with_gaps(rows, longest)
    in_order = [with_intervals(rows[sampler]) for sampler in samplers if sampler in rows]
    return Measured(in_order, [anchor.row for anchor in anchors.values()], gauge.references, gauge.of_rows)
