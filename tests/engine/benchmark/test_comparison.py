"""Gaps closed and ratios, on rows whose scores are made up."""

from typing import Any

import pytest
import torch
from torch import nn

from piflow_cli.engine.benchmark.comparison import Anchor, gap_closed, with_gaps
from piflow_cli.engine.benchmark.gauge import BenchmarkRow
from piflow_cli.engine.benchmark.samplers import Sampler
from piflow_cli.metrics.detectors.features import FeatureSet
from piflow_cli.metrics.intervals.parts import Parts


def made(kind: str, method: str, steps: int, *, teacher: str = "t", **scores: float) -> tuple[Sampler, BenchmarkRow]:
    common: dict[str, Any] = {"model": kind, "kind": kind, "method": method, "steps": steps, "nfe": steps, "shift": 1.0}
    sampler = Sampler(**common, module=nn.Identity(), space=None, draw=None, teacher=teacher)
    return sampler, BenchmarkRow(**common, network_calls=steps, network_s=1.0, policy_s=0.0, scores=scores)


def gaps(*pairs: tuple[Sampler, BenchmarkRow], longest: int) -> list[float | None]:
    """The gaps of rows, the longest teacher row being one of them by position."""
    anchor = pairs[longest][0]
    return [row.gap_closed for row in with_gaps(dict(pairs), {anchor.teacher: anchor}).values()]


def test_gap_closed_is_the_part_of_the_way_to_the_longest_row() -> None:
    assert gap_closed(4.0, 10.0, 2.0) == pytest.approx(0.75)
    assert gap_closed(2.0, 10.0, 2.0) == 1
    assert gap_closed(10.0, 10.0, 2.0) == 0
    assert gap_closed(1.0, 10.0, 2.0) > 1
    assert gap_closed(12.0, 10.0, 2.0) == pytest.approx(-0.25)


@pytest.mark.parametrize("longest", [10.0, 11.0])
def test_no_gap_is_closed_where_there_is_none(longest: float) -> None:
    assert gap_closed(4.0, 10.0, longest) is None


def test_students_compare_with_the_euler_row_of_as_many_steps() -> None:
    rows = [
        made("student", "gmflow", 1, fid=5.0),
        made("student", "gmflow", 2, fid=5.0),
        made("student", "gmflow", 3, fid=5.0),
        made("teacher", "euler", 1, fid=21.0),
        made("teacher", "euler", 2, fid=9.0),
        made("teacher", "heun", 3, fid=9.0),
        made("teacher", "euler", 32, fid=1.0),
    ]
    assert gaps(*rows, longest=6) == [16 / 20, 4 / 8, None, None, None, None, None]


def test_no_gap_without_fid_without_a_longer_row_or_with_another_teacher() -> None:
    student, other = made("student", "dx", 4, fid=5.0), made("student", "dx", 4, teacher="other", fid=5.0)
    short, long = made("teacher", "euler", 4, fid=9.0), made("teacher", "euler", 8, fid=1.0)
    assert gaps(student, short, longest=1) == [None, None]
    assert gaps(student, long, longest=1) == [None, None]
    assert gaps(student, other, short, long, longest=3) == [0.5, None, None, None]
    kids = [
        made("student", "dx", 4, kid=5.0),
        made("teacher", "euler", 4, kid=9.0),
        made("teacher", "euler", 8, kid=1.0),
    ]
    assert gaps(*kids, longest=2) == [None, None, None]


def test_ratios_to_the_anchor() -> None:
    features = FeatureSet(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    anchor = Anchor.of(made("teacher", "euler", 8, fid=2.0, diversity=4.0)[1], features, detector="a")
    row = anchor.compare(made("student", "dx", 1, fid=3.0, diversity=3.0)[1], features)
    assert (row.fid_ratio, row.diversity_ratio) == (1.5, 0.75)
    assert row.fid_to_teacher == pytest.approx(0, abs=1e-6)
    assert row.paired_error == 0
    without = anchor.compare(made("student", "dx", 1, kid=3.0)[1], features)
    assert (without.fid_ratio, without.diversity_ratio) == (None, None)
    flat = Anchor.of(made("teacher", "euler", 8, fid=0.0, diversity=0.0)[1], features, detector="a")
    assert flat.compare(row, features).diversity_ratio is None


def test_distances_without_parts_and_where_one_does_not_exist() -> None:
    """The teacher draws one other picture: without its part there is no error relative to how its pictures differ."""
    theirs, parts = torch.zeros(50, 3), Parts(torch.arange(50) % 5, 5)
    theirs[7] = 1.0
    own = FeatureSet(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    row = made("student", "dx", 1, fid=3.0)[1]
    anchor = Anchor.of(made("teacher", "euler", 8, fid=2.0)[1], FeatureSet(theirs), detector="a", parts=parts)
    found = anchor.compare(row, own)
    assert found.paired_error > 0
    assert (found.without["paired_error"], len(found.without["fid_to_teacher"])) == ((), 5)
