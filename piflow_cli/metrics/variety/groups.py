"""Pictures of one prompt, as metrics that ask how unlike these are take them."""
# N pictures, D features, P pictures of one group.

import torch
from torch import Tensor

from piflow_cli.errors import DataError


def split_groups(features: Tensor, groups: Tensor | None, *, metric: str) -> list[Tensor]:
    """The features (P, D) of each group, float64, by the groups' numbers.

    Args:
        features: (N, D).
        groups: number of the prompt or class that each picture was made for, (N,).
        metric: that asks, for messages.

    Raises:
        DataError: nothing says which pictures belong together, numbers that do not match, features that are not finite,
            or a group of one picture.
    """
    if groups is None:
        raise DataError(f"{metric} needs to know which prompt or class each picture was made for: pass its number.")
    if len(features) != len(groups):
        raise DataError(f"{metric} got {len(features)} pictures but groups of {len(groups)}: pass one group a picture.")
    if not features.isfinite().all():
        raise DataError("the detector gave features that are not finite: the pictures hold NaN or infinity.")
    parts = [features[groups == group].double() for group in groups.unique()]
    if not parts or min(len(part) for part in parts) < 2:
        raise DataError(f"{metric} needs at least 2 pictures of every prompt or class.")
    return parts


def mean_of_groups(values: list[Tensor]) -> float:
    """The mean over groups of a number of each."""
    return torch.stack(values).mean().item()
