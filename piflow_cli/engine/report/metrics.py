"""A run's metrics.jsonl as curves: read on from where the last reading ended, so that a run reads each line once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from piflow_cli.engine.report.curves import Curve
from piflow_cli.io.bounds import MAX_LINE_BYTES, MAX_METRICS_BYTES
from piflow_cli.io.regular import read_part, require_regular

SEGMENT = re.compile(r"loss_segment_(\d{1,2})")
SCORE = re.compile(r"validation/([\w.-]{1,40})_(\d{1,3})nfe")
"""A column of a validation: the metric, and the evaluations of the student."""
PLAIN = ("loss", "gradient_norm", "learning_rate", "images_per_s", "utilisation")
MAX_CURVES = 40
"""Names beyond these many are passed over: no run writes as many."""
MAX_STEP = 10**9
CHUNK_BYTES = 1 << 24


class Metrics:
    """The curves of a file that grows.

    Whatever is no line of numbers is counted and left out.

    Args:
        path: of metrics.jsonl; need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def _begin(self) -> None:
        self._read, self._rest = 0, b""
        self.curves: dict[str, Curve] = {}
        self.step, self.skipped, self.unreadable = 0, 0, 0
        self._earlier_s, self._wall_s = 0.0, 0.0

    @property
    def wall_s(self) -> float:
        """Seconds of training, over all parts of the run."""
        return self._earlier_s + self._wall_s

    def read_on(self) -> None:
        """Read what was written since; all of it where the file has become shorter.

        Raises:
            OSError: it is no regular file, too large, or cannot be read.
        """
        if not self.path.exists():
            self._begin()
            return
        require_regular(self.path, max_bytes=MAX_METRICS_BYTES)
        if self.path.stat().st_size < self._read:
            self._begin()
        while part := read_part(self.path, start=self._read, max_bytes=CHUNK_BYTES):
            self._read += len(part)
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                self._take(line)
            if len(self._rest) > MAX_LINE_BYTES:
                self._rest, self.unreadable = b"", self.unreadable + 1

    def _take(self, line: bytes) -> None:
        row = _row_of(line)
        if row is None:
            self.unreadable += 1
            return
        step = row["step"]
        self.step = max(self.step, step)
        if "loss" in row:
            self._keep_time(row)
        for name, value in row.items():
            if _is_number(value) and _is_column(name) and (name in self.curves or len(self.curves) < MAX_CURVES):
                self.curves.setdefault(name, Curve()).add(step, float(value))

    def _keep_time(self, row: Mapping[str, Any]) -> None:
        """Add up the seconds of a run's parts, whose clocks begin at 0 each, and keep the count of skipped steps."""
        wall_s, skipped = row.get("wall_s"), row.get("skipped")
        if _is_number(wall_s) and 0 <= wall_s < MAX_STEP:
            self._earlier_s += self._wall_s if wall_s < self._wall_s else 0
            self._wall_s = float(wall_s)
        if _is_number(skipped) and 0 <= skipped < MAX_STEP:
            self.skipped = int(skipped)

    def segments(self) -> dict[int, Curve]:
        """Losses by segment, from noise to data."""
        found = {int(match[1]): name for name in self.curves if (match := SEGMENT.fullmatch(name))}
        return {number: self.curves[found[number]] for number in sorted(found)}

    def scores(self) -> dict[str, dict[int, Curve]]:
        """What validations found, by metric and by evaluations."""
        found: dict[str, dict[int, Curve]] = {}
        for name, curve in self.curves.items():
            if match := SCORE.fullmatch(name):
                found.setdefault(match[1], {})[int(match[2])] = curve
        return found


def _row_of(line: bytes) -> dict[str, Any] | None:
    """The table of a line, with a step that can be; None where it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return row if type(step) is int and 0 <= step <= MAX_STEP else None


def _is_column(name: str) -> bool:
    return name in PLAIN or SEGMENT.fullmatch(name) is not None or SCORE.fullmatch(name) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 1e300)
