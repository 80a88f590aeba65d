"""CMMD (arXiv 2401.09603): maximum mean discrepancy of CLIP embeddings, which assumes no Gaussians."""
# N generated, M reference pictures, D features, R rows of a kernel at once, G, H parts.

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import one_hot

from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import Features, Metric, require_reference_features, require_same_dim

SIGMA, SCALE = 10.0, 1000.0
CLIP = "openai/clip-vit-large-patch14-336"
ROWS = 1024


def cmmd(features: Tensor, reference: Tensor) -> float:
    """1000 times the squared MMD of unit vectors by the kernel exp(-|x - y|^2 / (2 * 10^2)).

        1000 * ( mean k(x, x') + mean k(y, y') - 2 mean k(x, y) )

    Means are over all pairs, a vector with itself included: the estimate of least variance, at least 0.

    Args:
        features: (N, D), of any length other than 0.
        reference: (M, D).

    Source: arXiv 2401.09603, sections 4 and 5; the estimate is eq. 5 of Gretton et al. 2012.
    """
    x, y = (functional.normalize(side.double(), dim=1) for side in (features, reference))
    return SCALE * (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y))


def cmmd_without(features: Tensor, reference: Tensor, parts: Parts) -> list[float]:
    """CMMDs (G,) that have one part left out each, by sums of the kernel over pairs of parts.

    Args:
        features: (N, D).
        reference: (M, D).
        parts: of N, and of M where the reference loses them too.
    """
    x, y = (functional.normalize(side.double(), dim=1) for side in (features, reference))
    own = one_hot(parts.own, parts.count).double()  # (N, G)
    # A reference that stays whole is a part of its own, number G, which is never left out.
    theirs = parts.reference if parts.reference is not None else torch.full((len(y),), parts.count)
    other = one_hot(theirs, parts.count + 1).double()  # (M, G + 1)
    sums = [_kernel_sums(x, x, own, own), _kernel_sums(y, y, other, other), _kernel_sums(x, y, own, other)]
    sizes = own.sum(dim=0), other.sum(dim=0)
    found = []
    for part in range(parts.count):
        kept, left = (torch.arange(len(size)) != part for size in sizes)
        n, m = sizes[0][kept].sum(), sizes[1][left].sum()
        same = sums[0][kept][:, kept].sum() / n**2 + sums[1][left][:, left].sum() / m**2
        found.append((SCALE * (same - 2 * sums[2][kept][:, left].sum() / (n * m))).item())
    return found


def _kernel_sums(x: Tensor, y: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Sums (G, H) of the kernel over the pairs of rows of x (N, D) and y (M, D) of each two parts (N, G), (M, H)."""
    sums = x.new_zeros(own.shape[1], other.shape[1])
    for rows, members in zip(x.split(ROWS), own.split(ROWS), strict=True):
        sums += members.T @ (torch.exp((rows @ y.T - 1) / SIGMA**2) @ other)  # (R, M) inside
    return sums


def _mean_kernel(x: Tensor, y: Tensor) -> float:
    sums = [torch.exp((rows @ y.T - 1) / SIGMA**2).sum() for rows in x.split(ROWS)]  # |x - y|^2 = 2 - 2 x.y; (R, M)
    return (torch.stack(sums).sum() / (len(x) * len(y))).item()


def compute(
    generated: FeatureSet,
    reference: Reference,
    *,
    labels: Tensor | None,  # noqa: ARG001  (one signature for all metrics)
    seed: int,  # noqa: ARG001
) -> dict[str, float]:
    """Column "cmmd".

    Raises:
        DataError: the reference has no features, or those of another model.
    """
    require_same_dim(generated, reference)
    return {"cmmd": cmmd(generated.features, require_reference_features(reference, "CMMD"))}


def without(
    generated: FeatureSet,
    reference: Reference,
    parts: Parts,
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,  # noqa: ARG001
) -> dict[str, list[float]]:
    """Column "cmmd", see `cmmd_without`."""
    return {"cmmd": cmmd_without(generated.features, require_reference_features(reference, "CMMD"), parts)}


METRIC = Metric(
    name="cmmd",
    columns=("cmmd",),
    better="lower",
    compute=compute,
    reads=Features(model=CLIP),
    needs_reference=True,
    needs_reference_features=True,
    without=without,
)
