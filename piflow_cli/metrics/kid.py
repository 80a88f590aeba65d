"""Kernel inception distance (arXiv 1801.01401): unbiased in the number of pictures, unlike FID."""
# N generated, M reference pictures, D features, G parts.

import warnings

from torch import Tensor, nn

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.intervals.kernels import mmd_without
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import Metric, require_reference_features, require_same_dim, with_seed

NUM_SUBSETS = 100
MAX_SUBSET_SIZE = 1000


def kid(features: Tensor, reference: Tensor, *, seed: int, num_subsets: int = NUM_SUBSETS) -> float:
    """Squared MMD with the cubic kernel (x.y / D + 1)^3, a mean over random subsets of up to 1,000.

    Args:
        features: (N, D).
        reference: (M, D).
        seed: of the subsets.
        num_subsets: how many.

    Returns:
        The estimate, about 0 (of either sign) for one and the same distribution.

    Raises:
        DataError: fewer than two pictures on a side.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    subset_size = min(MAX_SUBSET_SIZE, len(features), len(reference))
    if subset_size < 2:
        raise DataError(f"KID needs at least 2 pictures a side; got {len(features)} and {len(reference)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "will save all extracted features": they exist already
        # The features given are all there are: those of other processes are asked for by whoever calls this.
        options = {"subsets": num_subsets, "subset_size": subset_size, "sync_on_compute": False}
        metric = KernelInceptionDistance(feature=nn.Identity(), **options)
    metric.update(reference.double(), real=True)
    metric.update(features.double(), real=False)
    return with_seed(seed, lambda: metric.compute()[0].item())


def compute(
    generated: FeatureSet,
    reference: Reference,
    *,
    labels: Tensor | None,  # noqa: ARG001  (one signature for all metrics)
    seed: int,
) -> dict[str, float]:
    """Column "kid".

    Raises:
        DataError: the reference has no features, or those of another detector.
    """
    require_same_dim(generated, reference)
    return {"kid": kid(generated.features, require_reference_features(reference, "KID"), seed=seed)}


def kid_without(features: Tensor, reference: Tensor, parts: Parts) -> list[float]:
    """KIDs (G,) that have one part left out each.

    They are of all pictures at once and not a mean over random subsets, which would move from one part to the next;
    subsets add some percent to the variance of a KID of 5,000 pictures.

    Args:
        features: (N, D).
        reference: (M, D).
        parts: of N, and of M where the reference loses them too.
    """
    dim = features.shape[1]
    return mmd_without(features, reference, parts, kernel=lambda products: (products / dim + 1) ** 3, unbiased=True)


def without(
    generated: FeatureSet,
    reference: Reference,
    parts: Parts,
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,  # noqa: ARG001
) -> dict[str, list[float]]:
    """Column "kid", see `kid_without`."""
    return {"kid": kid_without(generated.features, require_reference_features(reference, "KID"), parts)}


METRIC = Metric(
    name="kid",
    columns=("kid",),
    better="lower",
    compute=compute,
    needs_reference=True,
    needs_reference_features=True,
    without=without,
)
