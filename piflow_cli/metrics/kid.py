"""Kernel inception distance (arXiv 1801.01401): unbiased in the number of pictures, unlike FID."""
# N generated, M reference pictures, D features, R rows at a time, G, H parts.

import warnings

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import Metric, require_reference_features, require_same_dim, with_seed

NUM_SUBSETS = 100
MAX_SUBSET_SIZE = 1000
ROWS_AT_ONCE = 1024


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
    """KIDs (G,) that have one part left out each, by sums of the kernel over pairs of parts.

    They are of all pictures at once and not a mean over random subsets, which would move from one part to the next;
    subsets add some percent to the variance of a KID of 5,000 pictures.

    Args:
        features: (N, D).
        reference: (M, D).
        parts: of N, and of M where the reference loses them too.
    """
    own, count = one_hot(parts.own, parts.count).double(), parts.count  # (N, G)
    # A reference that stays whole is a part of its own, number G, which is never left out.
    theirs = parts.reference if parts.reference is not None else torch.full((len(reference),), count)
    other = one_hot(theirs, count + 1).double()  # (M, G + 1)
    x, y = features.double(), reference.double()
    within_x, within_y = _kernel_sums(x, x, own, own), _kernel_sums(y, y, other, other)
    for sums, points, members in ((within_x, x, own), (within_y, y, other)):
        sums.diagonal().sub_(members.T @ (points.square().sum(dim=1) / x.shape[1] + 1) ** 3)
    across = _kernel_sums(x, y, own, other)
    found = []
    for part in range(count):
        xs, ys = own.sum(dim=0), other.sum(dim=0)
        keeps, keeps_y = (torch.arange(len(sizes)) != part for sizes in (xs, ys))
        n, m = xs[keeps].sum(), ys[keeps_y].sum()
        same = within_x[keeps][:, keeps].sum() / (n * (n - 1)) + within_y[keeps_y][:, keeps_y].sum() / (m * (m - 1))
        found.append((same - 2 * across[keeps][:, keeps_y].sum() / (n * m)).item())
    return found


def _kernel_sums(x: Tensor, y: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Sums (G, H) of the kernel over the pairs of rows of x (N, D) and y (M, D) of each two parts (N, G), (M, H)."""
    sums = x.new_zeros(own.shape[1], other.shape[1])
    for rows, members in zip(x.split(ROWS_AT_ONCE), own.split(ROWS_AT_ONCE), strict=True):
        sums += members.T @ ((rows @ y.T / x.shape[1] + 1) ** 3 @ other)  # (R, M) inside
    return sums


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
