"""DINO diversity: how unlike four pictures of one prompt are, by OneIG-Bench's definition (arXiv 2506.07977)."""
# N pictures, D features, P pictures of one group.

import torch
from torch import Tensor
from torch.nn import functional

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.metric import Features, Groups, Metric

GROUPS = Groups(num_groups=64, group_size=4)
DINO = "facebook/dinov2-base"


def pair_distance(features: Tensor, groups: Tensor) -> float:
    """Mean over groups of the mean of 1 - cosine over the pairs of a group: 6 pairs of 4 pictures.

    Args:
        features: (N, D).
        groups: number of the prompt or class that each picture was made for, (N,).

    Returns:
        0 where pictures of a prompt are all the same, at most 2.

    Raises:
        DataError: features that are not finite, or a group of one picture.

    Source: the definition of OneIG-Bench's diversity, whose network is DreamSim; numbers of others do not compare.
    """
    if not features.isfinite().all():
        raise DataError("the model gave features that are not finite: the pictures hold NaN or infinity.")
    distances = []
    for group in groups.unique():
        unit = functional.normalize(features[groups == group].double(), dim=1)  # (P, D)
        if len(unit) < 2:
            raise DataError("dino-diversity needs at least 2 pictures of every prompt or class.")
        first, second = torch.triu_indices(len(unit), len(unit), offset=1)
        distances.append((1 - (unit[first] * unit[second]).sum(dim=1)).mean())
    return torch.stack(distances).mean().item()


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
    if labels is None:
        raise DataError(
            "dino-diversity needs to know which prompt or class each picture was made for: pass its number."
        )
    return {"dino-diversity": pair_distance(generated.features, labels)}


METRIC = Metric(
    name="dino-diversity",
    columns=("dino-diversity",),
    better="higher",
    compute=compute,
    reads=Features(model=DINO),
    needs_labels=True,
    groups=GROUPS,
)
