"""Vendi score (arXiv 2210.02410): how many different pictures there are, in effect."""
# N pictures, D features.

import torch
from torch import Tensor
from torch.nn import functional

from piflow_cli.errors import DataError
from piflow_cli.metrics.metric import score_of_features


def vendi(features: Tensor) -> float:
    """exp of the entropy of the eigenvalues of K / N, K being the cosines of all pairs of pictures.

    The matrix of the features' second moments has the same eigenvalues other than 0; the smaller of both is taken.

    Args:
        features: (N, D).

    Returns:
        A score in [1, min(N, D)]: 1 where all pictures are the same, N where no two have anything in common.

    Raises:
        DataError: no pictures, or features that are not finite or all 0.

    Source: arXiv 2210.02410, eq. 1, with the cosine kernel.
    """
    if not len(features) or not features.isfinite().all() or not features.any(dim=1).all():
        raise DataError("the Vendi score needs pictures whose features are finite and not all 0.")
    unit = functional.normalize(features.double(), dim=1)
    small = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit  # (min(N, D), min(N, D))
    eigenvalues = torch.linalg.eigvalsh(small / len(unit)).clamp(min=0)
    return torch.special.entr(eigenvalues).sum().exp().item()


METRIC = score_of_features("vendi", vendi, better="higher", takes="both")
"""It grows with the number of pictures: compare only scores of the same N."""
