"""CMMD (arXiv 2401.09603): maximum mean discrepancy of CLIP embeddings, which assumes no Gaussians."""
# N generated, M reference pictures, D features, G parts.

import torch
from torch import Tensor
from torch.nn import functional

from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.intervals.kernels import mean_kernel, mmd_without
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import Features, Metric, require_reference_features, require_same_dim

SIGMA, SCALE = 10.0, 1000.0
CLIP = "openai/clip-vit-large-patch14-336"


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
    return SCALE * (mean_kernel(x, x, _kernel) + mean_kernel(y, y, _kernel) - 2 * mean_kernel(x, y, _kernel))


def cmmd_without(features: Tensor, reference: Tensor, parts: Parts) -> list[float]:
    """CMMDs (G,) that have one part left out each, by sums of the kernel over pairs of parts.

    Args:
        features: (N, D).
        reference: (M, D).
        parts: of N, and of M where the reference loses them too.
    """
    x, y = (functional.normalize(side.double(), dim=1) for side in (features, reference))
    found = mmd_without(x, y, parts, kernel=_kernel, unbiased=False)
    return [SCALE * value for value in found]


def _kernel(products: Tensor) -> Tensor:
    """Of unit vectors: |x - y|^2 = 2 - 2 x.y."""
    return torch.exp((products - 1) / SIGMA**2)


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
