"""What metrics are made of: features of pictures, statistics of a reference set, and networks that give features."""
# B batch, N generated, M reference pictures, D features, K classes, C, H, W picture.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import torch
from torch import Tensor

from piflow_cli.errors import DataError


@dataclass(frozen=True)
class FeatureSet:
    """Features of N pictures: `features` (N, D) float32; `logits` (N, K) of the classifier, if there is one."""

    features: Tensor
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def take(self, which: Tensor) -> "FeatureSet":
        """Some of the pictures, by a mask (N,) or by their numbers."""
        return FeatureSet(self.features[which], None if self.logits is None else self.logits[which])


@dataclass(frozen=True)
class Reference:
    """Statistics of the real pictures that generated ones are compared to.

    Attributes:
        name: what the user called it.
        detector: name of the detector that gave the features.
        mean: (D,) float64.
        cov: (D, D) float64, unbiased.
        features: (M, D) float32, or None where only mean and covariance are known.
        num_samples: M; 0 where the file does not say.
    """

    name: str
    detector: str
    mean: Tensor
    cov: Tensor
    features: Tensor | None
    num_samples: int

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root (D, D) of the covariance."""
        return symmetric_root(self.cov)

    @classmethod
    def of(cls, generated: FeatureSet, *, name: str, detector: str) -> Self:
        """The pictures of a row as what others are compared to."""
        mean, cov = mean_and_cov(generated.features)
        return cls(name, detector, mean, cov, generated.features, len(generated))

    def take(self, which: Tensor) -> Self:
        """The same of some of the pictures, whose features are there, by a mask (M,)."""
        return type(self).of(FeatureSet(self.features[which]), name=self.name, detector=self.detector)


class Detector(Protocol):
    """A network that turns pictures into features."""

    name: str
    feature_dim: int
    with_logits: bool
    """Whether it was loaded to give what it can of classes."""

    def __call__(self, images: Tensor) -> FeatureSet:
        """Features of (B, C, H, W) pictures, float in [0, 1], on the CPU."""
        ...

    def title(self, metric: str) -> str:
        """How a score is headed in a table: "FID" alone only where the detector is the one of the papers."""
        ...

    def described(self) -> str:
        """What decides the features besides pictures: how these are prepared, and a digest of weights."""
        ...


def extract_features(detector: Detector, batches: Iterable[Tensor]) -> FeatureSet:
    """Run a detector over batches of pictures.

    Args:
        detector: gives features.
        batches: each (B, C, H, W) float in [0, 1].

    Returns:
        One FeatureSet in the order of the batches.

    Raises:
        DataError: there are no pictures.
    """
    return join_features([detector(images) for images in batches])


def join_features(parts: Sequence[FeatureSet]) -> FeatureSet:
    """One FeatureSet of several, in their order.

    Raises:
        DataError: there are no pictures.
    """
    if not parts:
        raise DataError("no pictures to measure: the batches are empty. Sample or pass at least two pictures.")
    logits = [part.logits for part in parts if part.logits is not None]
    return FeatureSet(
        features=torch.cat([part.features for part in parts]),  # (N, D)
        logits=torch.cat(logits) if len(logits) == len(parts) else None,  # (N, K)
    )


def mean_and_cov(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of (N, D) features, both float64.

    Raises:
        DataError: fewer than two rows, or values that are not finite.
    """
    if len(features) < 2:
        raise DataError(f"{len(features)} picture(s) have no covariance: pass at least 2, better thousands.")
    if not features.isfinite().all():
        raise DataError("the detector gave features that are not finite: the pictures hold NaN or infinity.")
    features = features.double()
    return features.mean(dim=0), torch.atleast_2d(torch.cov(features.T))


def symmetric_root(cov: Tensor) -> Tensor:
    """The symmetric square root (D, D) of a covariance, positive semi-definite but for rounding."""
    eigenvalues, basis = torch.linalg.eigh(cov)
    return (basis * eigenvalues.clamp(min=0).sqrt()) @ basis.T
