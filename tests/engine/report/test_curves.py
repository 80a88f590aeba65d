"""Curves of a run: bounded, the same whenever somebody looks, and read once."""

import json
import math
from pathlib import Path

import pytest
from made_runs import make_run, row

from piflow_cli.engine.report import metrics as reading
from piflow_cli.engine.report.curves import MAX_BINS, Curve
from piflow_cli.engine.report.metrics import Metrics


@pytest.mark.parametrize("count", [1, MAX_BINS, MAX_BINS + 1, 10 * MAX_BINS + 7])
def test_a_curve_is_bounded_and_keeps_means_ends_and_extremes(count: int) -> None:
    values = [math.sin(i) + (9 if i == count // 2 else 0) for i in range(count)]
    curve = Curve()
    for step, value in enumerate(values, start=1):
        curve.add(step, value)
    bins = curve.bins()
    assert MAX_BINS / 2 <= len(bins) + MAX_BINS * (count < MAX_BINS) <= 2 * MAX_BINS
    assert len(bins) <= MAX_BINS
    assert sum(part.count for part in bins) == count
    assert sum(part.count * part.mean for part in bins) == pytest.approx(sum(values))
    assert max(part.high for part in bins) == max(values)
    assert min(part.low for part in bins) == min(values)
    assert [part.step for part in bins] == sorted(part.step for part in bins)
    assert (curve.last.step, curve.last.value) == (count, values[-1])
    assert curve.least.value == min(values)


def test_far_steps_cost_no_more_than_near_ones() -> None:
    curve = Curve()
    for step in (1, 10**9, *range(5 * 10**8, 5 * 10**8 + 1000)):
        curve.add(step, 1.0)
    assert len(curve.bins()) <= MAX_BINS


def test_a_growing_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "metrics.jsonl", []
    part = reading.read_part

    def counted(*args: object, **options: object) -> bytes:
        read.append(part(*args, **options))
        return read[-1]

    monkeypatch.setattr(reading, "read_part", counted)
    metrics, whole = Metrics(path), Metrics(path)
    content = "".join(json.dumps(row(step)) + "\n" for step in range(1, 901)).encode()
    for begin in range(0, len(content), 9973):  # lines come in parts too
        with path.open("ab") as file:
            file.write(content[begin : begin + 9973])
        metrics.read_on()
    assert b"".join(read) == content
    whole.read_on()
    for name, curve in whole.curves.items():
        assert curve.bins() == metrics.curves[name].bins()
    assert (metrics.step, metrics.unreadable) == (900, 0)


def test_a_file_that_was_cut_back_is_read_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=80)
    metrics = Metrics(run / "metrics.jsonl")
    metrics.read_on()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:30]))
    metrics.read_on()
    assert metrics.step == 30
    assert sum(part.count for part in metrics.curves["loss"].bins()) == 30


def test_what_is_no_row_is_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    bad = [
        b"\xff\xfe\x00",
        b"{",
        b"[1]",
        b'{"loss": 1}',
        b'{"step": "3"}',
        b'{"step": -1}',
        b'{"step": 1e3}',
        b"[" * 99_999,
    ]
    odd = (
        b'{"step": 2, "loss": NaN, "gradient_norm": Infinity, "learning_rate": 1'
        + b"0" * 400
        + b', "images_per_s": true}'
    )
    path.write_bytes(b"\n".join([*bad, odd, b'{"step": 3, "loss": 0.5, "unknown": 4, "validation/<b>_4nfe": 1}', b""]))
    metrics = Metrics(path)
    metrics.read_on()
    assert metrics.unreadable == len(bad)
    assert metrics.step == 3
    assert {name: [part.mean for part in curve.bins()] for name, curve in metrics.curves.items()} == {
        "loss": [0.5],
        "gradient_norm": [],
    }


def test_seconds_of_parts_add_up(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    seconds = [1.0, 2.0, 3.0, 0.5, 1.5, 0.25]
    path.write_text("".join(json.dumps({"step": i, "loss": 1.0, "wall_s": s}) + "\n" for i, s in enumerate(seconds)))
    metrics = Metrics(path)
    metrics.read_on()
    assert metrics.wall_s == 3.0 + 1.5 + 0.25
