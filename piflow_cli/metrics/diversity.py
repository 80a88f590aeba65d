"""Diversity: how far apart pictures of one prompt lie, which few-step students tend to lose."""
# N pictures, D features, P pictures of one group.

import torch
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.metric import Groups, Metric

GROUPS = Groups(num_groups=64, group_size=8)


def diversity(features: Tensor, groups: Tensor) -> float:
    """Mean over groups of the mean Euclidean distance between two pictures of a group.

    Args:
        features: (N, D).
        groups: number of the prompt or class that each picture was made for, (N,).

    Returns:
        At least 0, in units of the features: only scores of one detector compare.

    Raises:
        DataError: numbers that do not match, a group of one picture, or features that are not finite.

    Source: ours; the pairwise distance of StarGAN v2 (arXiv 1912.01865, LPIPS) in the space that FID is taken in.
    """
    if len(features) != len(groups):
        raise DataError(
            f"diversity got {len(features)} pictures but groups of {len(groups)}: pass one group a picture."
        )
    if not features.isfinite().all():
        raise DataError("the detector gave features that are not finite: the pictures hold NaN or infinity.")
    parts = [features[groups == group].double() for group in groups.unique()]  # (P, D) each
    if not parts or min(len(part) for part in parts) < 2:
        raise DataError("diversity needs at least 2 pictures of every prompt or class.")
    return torch.stack([torch.pdist(part).mean() for part in parts]).mean().item()


def compute(
    generated: FeatureSet,
    reference: Reference,  # noqa: ARG001  (one signature for all metrics)
    *,
    labels: Tensor | None,
    seed: int,  # noqa: ARG001
) -> dict[str, float]:
    """Column "diversity".

    Raises:
        DataError: nothing says which pictures belong together.
    """
    if labels is None:
        raise DataError("diversity needs to know which prompt or class each picture was made for: pass its number.")
    return {"diversity": diversity(generated.features, labels)}


METRIC = Metric(
    name="diversity", columns=("diversity",), better="higher", compute=compute, needs_labels=True, groups=GROUPS
)
