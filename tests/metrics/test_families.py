"""KID, inception score, precision-recall and accuracy on cases whose answer is known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics import accuracy, inception_score, kid, precision_recall
from piflow_cli.metrics.detectors.features import FeatureSet, Reference, mean_and_cov
from piflow_cli.metrics.metric import Metric
from piflow_cli.registry import names, resolve


def gaussian(num: int, *, seed: int, dim: int = 8, shift: float = 0.0) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)) + shift


def reference_of(features: Tensor) -> Reference:
    return Reference("set", "net", *mean_and_cov(features), features, len(features))


def cubic_mmd(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate written out."""
    x, y = x.double(), y.double()
    n = len(x)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = sum((kernel(a, a).sum() - kernel(a, a).trace()) / (n * (n - 1)) for a in (x, y))
    return (within - 2 * kernel(x, y).mean()).item()


def test_kid_is_about_zero_on_one_distribution_and_grows_with_a_shift() -> None:
    real = gaussian(2000, seed=1)
    same = kid.kid(gaussian(2000, seed=2), real, seed=0)
    shifted = kid.kid(gaussian(2000, seed=2, shift=0.3), real, seed=0)
    assert abs(same) < 5e-3
    assert shifted > 0.1


def test_kid_of_one_whole_subset_is_the_estimate_written_out() -> None:
    real, fake = gaussian(300, seed=1), gaussian(300, seed=2, shift=0.2)
    assert kid.kid(fake, real, seed=0, num_subsets=1) == pytest.approx(cubic_mmd(real, fake), rel=1e-9)


def test_kid_is_seeded_and_leaves_the_global_generator_alone() -> None:
    real, fake = gaussian(1500, seed=1), gaussian(1500, seed=2)
    state = torch.random.get_rng_state()
    first = kid.kid(fake, real, seed=3, num_subsets=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first == kid.kid(fake, real, seed=3, num_subsets=2)
    assert first != kid.kid(fake, real, seed=4, num_subsets=2)


def test_inception_score_of_sure_and_balanced_predictions_is_the_number_of_classes() -> None:
    logits = 100 * torch.eye(10).repeat(50, 1)
    assert inception_score.inception_score(logits, seed=0, num_splits=1) == pytest.approx(10, rel=1e-6)
    assert 9 < inception_score.inception_score(logits, seed=0) < 10
    assert inception_score.inception_score(torch.zeros(100, 10), seed=0) == pytest.approx(1)


def test_inception_score_of_half_sure_predictions() -> None:
    probabilities = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).repeat(40, 1)
    expected = math.exp(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert inception_score.inception_score(probabilities.log(), seed=0, num_splits=1) == pytest.approx(expected)


def test_precision_and_recall_of_identical_and_of_far_sets() -> None:
    real = gaussian(400, seed=1)
    assert precision_recall.precision_recall(real, real, seed=0) == (1.0, 1.0)
    assert precision_recall.precision_recall(real + 100, real, seed=0) == (0.0, 0.0)


def test_collapse_keeps_precision_and_loses_recall() -> None:
    real = gaussian(600, seed=1)
    centre = 0.1 * gaussian(600, seed=2)
    precision, recall = precision_recall.precision_recall(centre, real, seed=0)
    assert precision > 0.95
    assert recall < 0.05


def test_precision_recall_cuts_both_sides_to_one_size() -> None:
    real, fake = gaussian(200, seed=1), gaussian(900, seed=2)
    scores = precision_recall.precision_recall(fake, real, seed=0)
    assert scores == precision_recall.precision_recall(fake, real, seed=0)
    assert all(0.4 < score < 1 for score in scores)
    with pytest.raises(DataError, match="more than 3 pictures"):
        precision_recall.precision_recall(fake[:3], real, seed=0)


def test_neighbour_radii_on_a_line() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0]])
    radii = precision_recall.neighbour_radii(points, num_neighbours=2)
    assert radii.tolist() == [3.0, 2.0, 3.0, 6.0, 12.0]


def test_accuracy() -> None:
    logits = torch.eye(4)
    assert accuracy.accuracy(logits, torch.tensor([0, 1, 2, 0])) == 0.75
    with pytest.raises(DataError, match="4 pictures but 3 labels"):
        accuracy.accuracy(logits, torch.tensor([0, 1, 2]))
    with pytest.raises(DataError, match=r"0\.\.9.*0\.\.3"):
        accuracy.accuracy(logits, torch.tensor([0, 1, 2, 9]))


@pytest.mark.parametrize("name", names("metric"))
def test_every_registered_metric_fills_its_columns(name: str) -> None:
    metric = resolve("metric", name)
    assert isinstance(metric, Metric)
    assert metric.name == name
    generated = FeatureSet(gaussian(60, seed=1), gaussian(60, seed=2, dim=10))
    labels = torch.arange(60) % 10
    scores = metric.compute(generated, reference_of(gaussian(50, seed=3)), labels=labels, seed=0)
    assert tuple(scores) == metric.columns
    assert all(isinstance(score, float) and math.isfinite(score) for score in scores.values())
    assert metric.better in ("lower", "higher")


@pytest.mark.parametrize("name", names("metric"))
def test_every_registered_metric_says_what_it_misses(name: str) -> None:
    metric = resolve("metric", name)
    generated = FeatureSet(gaussian(60, seed=1), gaussian(60, seed=2, dim=10))
    reference, labels = reference_of(gaussian(50, seed=3)), torch.arange(60) % 10
    if metric.needs_logits:
        with pytest.raises(DataError, match="logits"):
            metric.compute(replace(generated, logits=None), reference, labels=labels, seed=0)
    if metric.needs_labels:
        with pytest.raises(DataError, match="class"):
            metric.compute(generated, reference, labels=None, seed=0)
    if metric.needs_reference_features:
        with pytest.raises(DataError, match="features of every reference picture"):
            metric.compute(generated, replace(reference, features=None), labels=labels, seed=0)
