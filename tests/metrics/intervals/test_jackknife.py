"""Intervals: parts, the scores without them by short cuts and written out, and how often an interval is right."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import t as student
from torch import Tensor

from piflow_cli.metrics.cmmd import cmmd
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.frechet.fid import fid
from piflow_cli.metrics.intervals.jackknife import combine, half_width, scores_without, student_quantile
from piflow_cli.metrics.intervals.parts import Parts, parts_in_turn, parts_of_groups
from piflow_cli.metrics.kid import kid
from piflow_cli.metrics.precision_recall import precision_recall
from piflow_cli.registry import names, resolve

PARTS = 10


def gaussian(num: int, *, seed: int, dim: int = 6, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)) + shift


def reference_of(features: Tensor) -> Reference:
    return Reference.of(FeatureSet(features), name="set", detector="net")


def without(name: str, generated: FeatureSet, reference: Reference, parts: Parts) -> dict[str, tuple[float, ...]]:
    return scores_without(resolve("metric", name), generated, reference, parts, labels=parts.own % 3, seed=0)


def test_parts_share_all_subjects_that_come_often() -> None:
    parts = parts_in_turn(1000, 10, 20, seed=0)
    assert parts.bincount().tolist() == [50] * 20
    for part in range(20):
        assert (torch.arange(1000)[parts == part] % 10).bincount().tolist() == [5] * 10
    once = parts_in_turn(1000, 5000, 20, seed=0)
    assert once.bincount().tolist() == [50] * 20
    assert not torch.equal(once, parts_in_turn(1000, 5000, 20, seed=1))
    assert once[:50].unique().numel() > 10  # not a run of neighbours in the list


def test_parts_keep_the_pictures_of_a_prompt_together() -> None:
    groups = torch.tensor([7, 7, 3, 3, 9, 9, 1, 1, 5, 5, 2, 2])
    parts, count = parts_of_groups(groups, 20, seed=0)
    assert count == 6
    assert torch.equal(parts[::2], parts[1::2])
    assert sorted(parts[::2].tolist()) == list(range(6))
    assert parts_of_groups(groups, 3, seed=0)[0].bincount().tolist() == [4, 4, 4]


@pytest.mark.parametrize("freedom", [4, 9, 19, 39])
def test_quantiles_of_students_distribution(freedom: int) -> None:
    assert student_quantile(0.95, freedom) == pytest.approx(student.ppf(0.975, freedom), rel=1e-3)


def test_interval_of_a_mean_is_the_textbooks() -> None:
    """With a picture a part it is t s / sqrt(N)."""
    values = gaussian(40, seed=0, dim=1).flatten().double()
    left = [((values.sum() - value) / 39).item() for value in values]
    assert half_width(left) == pytest.approx(student.ppf(0.975, 39) * values.std().item() / math.sqrt(40), rel=1e-4)
    assert half_width([1.0] * 4) is None
    assert half_width([1.0] * 5 + [math.nan]) is None


def test_combined_scores_lose_the_same_part() -> None:
    assert combine(lambda a, b: a / b, (2.0, 6.0), (4.0, 3.0)) == (0.5, 2.0)
    assert combine(lambda a, b: a / b, (2.0, 6.0), ()) == ()


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", ["fid", "kid", "cmmd", "precision-recall"])
def test_short_cuts_equal_the_scores_written_out(name: str, *, paired: bool) -> None:
    fake, real = gaussian(120, seed=1), gaussian(120, seed=2, shift=0.3)
    own = torch.arange(120) % PARTS
    found = without(name, FeatureSet(fake), reference_of(real), Parts(own, PARTS, own if paired else None))
    for part in range(PARTS):
        some, other = fake[own != part], real[own != part] if paired else real
        if name == "fid":
            reference = reference_of(other)
            assert found["fid"][part] == pytest.approx(fid(some, reference.mean, reference.cov), rel=1e-6)
        elif name == "cmmd":
            assert found["cmmd"][part] == pytest.approx(cmmd(some, other), rel=1e-6)
        elif name == "kid" and paired:
            assert found["kid"][part] == pytest.approx(kid(some, other, seed=0, num_subsets=1), rel=1e-6)
        elif paired:  # else the real ones are cut to as many, which `without` leaves alone
            expected = precision_recall(some, other, seed=0)
            assert (found["precision"][part], found["recall"][part]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("pictures", "tolerance"), [(1000, 0.02), (100, 0.3)])
@pytest.mark.parametrize("paired", [False, True])
def test_wide_features_take_the_distance_to_first_order(
    monkeypatch: pytest.MonkeyPatch, pictures: int, tolerance: float, *, paired: bool
) -> None:
    """More and fewer pictures than features; what is wrong is wide."""
    scales = torch.arange(1, 65).rsqrt()
    other = scales * gaussian(pictures, seed=1, dim=64)
    fake = 1.1 * other + 0.1 * scales * gaussian(pictures, seed=2, dim=64) + 0.05
    reference = reference_of(other if paired else scales * gaussian(500, seed=3, dim=64))
    own = parts_in_turn(pictures, pictures, 20, seed=0)
    parts = Parts(own, 20, own if paired else None)
    plain = without("fid", FeatureSet(fake), reference, parts)["fid"]
    monkeypatch.setattr("piflow_cli.metrics.frechet.fid.EXACT_DIM", 1)
    wide = without("fid", FeatureSet(fake), reference, parts)["fid"]
    assert wide == pytest.approx(plain, rel=tolerance)
    assert -0.02 <= half_width(wide) / half_width(plain) - 1 <= tolerance


def test_kid_without_parts_against_a_whole_reference() -> None:
    fake, real = gaussian(120, seed=1), gaussian(108, seed=2, shift=0.3)
    own = torch.arange(120) % PARTS
    found = without("kid", FeatureSet(fake), reference_of(real), Parts(own, PARTS))["kid"]
    expected = [kid(fake[own != part], real, seed=0, num_subsets=1) for part in range(PARTS)]
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", names("metric"))
def test_every_registered_metric_has_an_interval(name: str) -> None:
    metric = resolve("metric", name)
    generated = FeatureSet(gaussian(80, seed=1), gaussian(80, seed=2, dim=10))
    own, labels = torch.arange(80) % PARTS, torch.arange(80) // 4 % 10
    parts = Parts(own, PARTS) if metric.groups is None else Parts(*parts_of_groups(labels, PARTS, seed=0))
    reference = reference_of(gaussian(70, seed=3))
    found = scores_without(metric, generated, reference, parts, labels=labels, seed=0)
    scores = metric.compute(generated, reference, labels=labels, seed=0)
    assert tuple(found) == metric.columns
    for column, values in found.items():
        assert len(values) == PARTS
        assert half_width(values) > 0
        centre = sum(values) / PARTS
        assert abs(centre - scores[column]) < 10 * half_width(values)  # the same score, not another
    plain = scores_without(replace(metric, without=None), generated, reference, parts, labels=labels, seed=0)
    assert {column: len(values) for column, values in plain.items()} == dict.fromkeys(metric.columns, PARTS)


def test_a_score_that_a_part_is_needed_for_has_no_interval() -> None:
    """Groups of two pictures of which one is left out: the score is of all pictures, and stays."""
    metric, labels = resolve("metric", "diversity"), torch.arange(40) // 2
    generated, parts = FeatureSet(gaussian(40, seed=0)), Parts(torch.arange(40) % PARTS, PARTS)
    assert scores_without(metric, generated, reference_of(gaussian(9, seed=1)), parts, labels=labels, seed=0) == {}


def coverage(scores: list[float], halves: list[float], truth: float) -> float:
    """How often an interval holds what it is to hold."""
    return sum(abs(score - truth) <= half for score, half in zip(scores, halves, strict=True)) / len(scores)


def test_95_of_100_intervals_hold_the_fid_of_known_gaussians() -> None:
    """Against N(0, 1) the FID of N(0.3, 0.8^2) in 8 dimensions is 8 (0.3^2 + 0.2^2) = 1.04."""
    reference = Reference("exact", "net", torch.zeros(8).double(), torch.eye(8).double(), None, 0)
    own = parts_in_turn(1000, 1000, 20, seed=0)
    scores, halves = [], []
    for seed in range(200):
        features = gaussian(1000, seed=seed, dim=8, shift=0.3, scale=0.8)
        scores.append(fid(features, reference.mean, reference.cov))
        halves.append(half_width(without("fid", FeatureSet(features), reference, Parts(own, 20))["fid"]))
    assert 0.92 <= coverage(scores, halves, 1.04) <= 0.98
    spread = torch.tensor(scores).std().item()
    assert sum(halves) / len(halves) == pytest.approx(student.ppf(0.975, 19) * spread, rel=0.15)


def test_ratios_of_rows_of_the_same_noise_are_narrower() -> None:
    """Two rows that share noise: the interval holds the ratio of as many pictures, and is a fraction of strangers'."""
    reference = Reference("exact", "net", torch.zeros(8).double(), torch.eye(8).double(), None, 0)
    own = parts_in_turn(1000, 1000, 20, seed=0)
    ratios, halves, unpaired = [], [], []
    for seed in range(120):
        noise = gaussian(1000, seed=seed, dim=8)
        rows = [FeatureSet(0.8 * noise + 0.3), FeatureSet(0.85 * noise + 0.3)]
        first, second = (without("fid", row, reference, Parts(own, 20))["fid"] for row in rows)
        a, b = (fid(row.features, reference.mean, reference.cov) for row in rows)
        ratios.append(a / b)
        halves.append(half_width(combine(lambda a, b: a / b, first, second)))
        unpaired.append(a / b * math.hypot(half_width(first) / a, half_width(second) / b))
    mean = sum(ratios) / len(ratios)
    assert mean == pytest.approx((0.3**2 + 0.2**2) / (0.3**2 + 0.15**2), rel=0.01)
    assert 0.92 <= coverage(ratios, halves, mean) <= 0.99
    assert sum(halves) < 0.3 * sum(unpaired)
