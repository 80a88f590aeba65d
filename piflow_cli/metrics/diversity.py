"""Diversity: how far apart pictures of one prompt lie, which few-step students tend to lose."""
# N pictures, D features, P pictures of one group.

import torch
from torch import Tensor

from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.metric import Groups, Metric
from piflow_cli.metrics.variety.groups import mean_of_groups, split_groups

GROUPS = Groups(num_groups=64, group_size=8)


def diversity(features: Tensor, groups: Tensor | None) -> float:
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
    return mean_of_groups([torch.pdist(part).mean() for part in split_groups(features, groups, metric="diversity")])


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
    return {"diversity": diversity(generated.features, labels)}


METRIC = Metric(
    name="diversity",
    columns=("diversity",),
    better="higher",
    compute=compute,
    needs_labels=True,
    groups=GROUPS,
    takes="both",
)
