"""Charts as values: what the script of a page draws, and what its reader is told where nothing can be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from piflow_cli.engine.report.curves import Bin, Curve

NUM_COLOURS = 8
"""That the style sheet has; lines beyond take them again, dashed."""
DASHES = ((), (7, 4), (2, 3), (9, 3, 2, 3))
DIGITS = 6
WIDE = 30.0
"""Ratio of largest to least from which an axis is logarithmic at first."""


@dataclass(frozen=True)
class Line:
    """Points of one name, in the order of x.

    Args:
        label: in the legend.
        x, y: numbers; None leaves a point out.
        low, high: around it: edges of a band, or ends of a bar through each point that is marked; or nothing.
        colour: number of it.
        dash: pattern in pixels.
        marked: whether points are shown, not only joined.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    colour: int = 0
    dash: tuple[int, ...] = ()
    marked: bool = False


@dataclass(frozen=True)
class Chart:
    """A title over lines.

    Args:
        title: of what is shown.
        note: what it is good for, in a few words.
        x_label: of the axis below.
        lines: at least one of them with a point.
        log_x: base of the axis below where it is logarithmic; 0 is none. All its numbers are above 0.
        log_y: whether the upright axis is logarithmic at first.
        can_log: whether the upright one can be.
    """

    title: str
    note: str
    x_label: str
    lines: tuple[Line, ...]
    log_x: int = 0
    log_y: bool = False
    can_log: bool = False

    @property
    def summary(self) -> str:
        """The chart in words, for those who do not see it."""
        ends = [f"{line.label}: {_said(line)}" for line in self.lines if line.x]
        return f"{self.title} over {self.x_label}. " + "; ".join(ends)


def chart_of(title: str, note: str, lines: Sequence[Line], *, x_label: str = "step", log_x: int = 0) -> Chart:
    """A chart whose upright axis is logarithmic where its numbers are far apart."""
    values = [y for line in lines for y in line.y if y is not None]
    across = [x for line in lines for x in line.x]
    positive = bool(values) and min(values) > 0
    wide = positive and max(values) / min(values) > WIDE
    base = log_x if across and min(across) > 0 else 0
    return Chart(title, note, x_label, tuple(lines), log_x=base, log_y=wide, can_log=positive)


def line_of(
    curve: Curve, label: str, *, colour: int = 0, dash: int = 0, band: bool = False, marked: bool = False
) -> Line:
    """A curve as a line, with the span of each bin as a band where some have one.

    Args:
        curve: thinned.
        label: in the legend.
        colour: number of it.
        dash: number of a pattern.
        band: whether the least and largest of neighbouring steps are of interest.
        marked: whether its points are few and matter each.
    """
    bins = curve.bins()
    spread = band and any(part.count > 1 for part in bins)
    return Line(
        label,
        tuple(round(part.step, 1) for part in bins),
        _rounded(bins, "mean"),
        low=_rounded(bins, "low") if spread else (),
        high=_rounded(bins, "high") if spread else (),
        colour=colour % NUM_COLOURS,
        dash=DASHES[dash % len(DASHES)],
        marked=marked or len(bins) == 1,
    )


def _rounded(bins: Sequence[Bin], name: str) -> tuple[float | None, ...]:
    return tuple(rounded(getattr(part, name)) for part in bins)


def rounded(value: float) -> float | None:
    """A number with as many digits as a picture shows; None where it is not finite."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _said(line: Line) -> str:
    known = [y for y in line.y if y is not None]
    return f"{known[0]:.4g} at {line.x[0]:g}, {known[-1]:.4g} at {line.x[-1]:g}" if known else "no number"
