"""FD-DINOv2 (arXiv 2306.04675): the Fréchet distance in features of DINOv2, which saw no labels of ImageNet."""
# N pictures, D features.

from torch import Tensor

from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.fid import fid, fid_without
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import Features, Metric, require_same_dim

DINOV2 = "facebook/dinov2-large"
"""ViT-L/14, whose class token after the last norm the paper takes."""


def compute(
    generated: FeatureSet,
    reference: Reference,
    *,
    labels: Tensor | None,  # noqa: ARG001  (one signature for all metrics)
    seed: int,  # noqa: ARG001
) -> dict[str, float]:
    """Column "fd-dinov2". It falls with the number of pictures, as FID does."""
    require_same_dim(generated, reference)
    return {"fd-dinov2": fid(generated.features, reference.mean, reference.cov)}


def without(
    generated: FeatureSet,
    reference: Reference,
    parts: Parts,
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,  # noqa: ARG001
) -> dict[str, list[float]]:
    """Column "fd-dinov2", see `fid_without`."""
    return {"fd-dinov2": fid_without(generated.features, reference, parts)}


METRIC = Metric(
    name="fd-dinov2",
    columns=("fd-dinov2",),
    better="lower",
    compute=compute,
    reads=Features(model=DINOV2),
    frechet=True,
    needs_reference=True,
    without=without,
)
