"""DINO diversity: how unlike four pictures of one prompt are, by OneIG-Bench's definition (arXiv 2506.07977)."""
# N pictures, D features, P pictures of one group.

import torch
from torch import Tensor
from torch.nn import functional

from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.metric import Features, Groups, Metric
from piflow_cli.metrics.variety.groups import mean_of_groups, split_groups

GROUPS = Groups(num_groups=64, group_size=4)
DINO = "facebook/dinov2-base"


def pair_distance(features: Tensor, groups: Tensor | None) -> float:
    """Mean over groups of the mean of 1 - cosine over the pairs of a group: 6 pairs of 4 pictures.

    Args:
        features: (N, D).
        groups: number of the prompt or class that each picture was made for, (N,).

    Returns:
        0 where pictures of a prompt are all the same, at most 2.

    Raises:
        DataError: as `split_groups`.

    Source: the definition of OneIG-Bench's diversity, whose network is DreamSim; numbers of others do not compare.
    """
    distances = []
    for part in split_groups(features, groups, metric="dino-diversity"):
        unit = functional.normalize(part, dim=1)  # (P, D)
        first, second = torch.triu_indices(len(unit), len(unit), offset=1)
        distances.append((1 - (unit[first] * unit[second]).sum(dim=1)).mean())
    return mean_of_groups(distances)


def compute(
    generated: FeatureSet,
    reference: Reference,  # noqa: ARG001  (one signature for all metrics)
    *,
    labels: Tensor | None,
    seed: int,  # noqa: ARG001
) -> dict[str, float]:
    """Column "dino-diversity".

    Raises:
        DataError: nothing says which pictures belong together.
    """
    return {"dino-diversity": pair_distance(generated.features, labels)}


METRIC = Metric(
    name="dino-diversity",
    columns=("dino-diversity",),
    better="higher",
    compute=compute,
    reads=Features(model=DINO),
    needs_labels=True,
    groups=GROUPS,
    takes="both",
)
