"""Kernel inception distance (arXiv 1801.01401): unbiased in the number of pictures, unlike FID."""
# N generated, M reference pictures, D features.

import warnings

from torch import Tensor, nn

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
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


METRIC = Metric(name="kid", columns=("kid",), better="lower", compute=compute, needs_reference_features=True)
