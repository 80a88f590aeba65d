"""The record that each metric's file exports as METRIC, and the checks that metrics share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.intervals.parts import Parts


class Compute(Protocol):
    """Scores by column name; `seed` fixes any subsets that are drawn.

    `labels` (N,) are the classes asked for, None where nothing says them; for a metric of groups they say instead which
    group each picture belongs to, and are always there.
    """

    def __call__(
        self, generated: FeatureSet, reference: Reference, *, labels: Tensor | None, seed: int
    ) -> dict[str, float]: ...


class ComputeWithout(Protocol):
    """By column, the scores (G,) that have one part of the pictures left out each."""

    def __call__(
        self, generated: FeatureSet, reference: Reference, parts: Parts, *, labels: Tensor | None, seed: int
    ) -> dict[str, list[float]]: ...


@dataclass(frozen=True)
class Groups:
    """Pictures that a metric is measured on where they are not the row's own: several of each of the first prompts.

    Args:
        num_groups: different prompts, or classes; all of them where there are fewer.
        group_size: pictures of each, from other noise.
    """

    num_groups: int
    group_size: int


@dataclass(frozen=True)
class Metric:
    """One metric family: its name, the columns it fills, which direction is better, and the pictures it needs.

    `without` is a way to the scores that have parts of the pictures left out, for intervals; None computes each anew.
    """

    name: str
    columns: tuple[str, ...]
    better: Literal["lower", "higher"]
    compute: Compute
    needs_logits: bool = False
    needs_labels: bool = False
    needs_reference_features: bool = False
    groups: Groups | None = None
    without: ComputeWithout | None = None


def require_same_dim(generated: FeatureSet, reference: Reference) -> None:
    """Refuse features of another detector than the reference's.

    Raises:
        DataError: the feature dimensions differ.
    """
    generated_dim, reference_dim = generated.features.shape[1], len(reference.mean)
    if generated_dim != reference_dim:
        raise DataError(
            f"the pictures have {generated_dim} features each but reference {reference.name!r} has {reference_dim} "
            f"(detector {reference.detector!r}): measure both with the same detector."
        )


def require_reference_features(reference: Reference, metric: str) -> Tensor:
    """The reference's features (M, D).

    Raises:
        DataError: the reference holds only a mean and a covariance.
    """
    if reference.features is None:
        raise DataError(
            f"{metric} needs the features of every reference picture, but reference {reference.name!r} holds only "
            "their mean and covariance (enough for FID alone). Pass the folder of reference pictures instead."
        )
    return reference.features


def with_seed(seed: int, function: Callable[[], float]) -> float:
    """Call `function` with torch's global generator seeded, and put the generator back (torchmetrics draws from it)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function()
