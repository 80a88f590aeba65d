"""Inception score (arXiv 1606.03498): exp of the mean KL between each picture's class posterior and their average."""
# N pictures, K classes, S pictures of a split, G parts.

import warnings

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import Metric, with_seed

NUM_SPLITS = 10


def inception_score(logits: Tensor, *, seed: int, num_splits: int = NUM_SPLITS) -> float:
    """Mean over splits of exp(mean KL(p(y|x) || p(y))).

    Args:
        logits: (N, K); a softmax turns them into p(y|x).
        seed: of the shuffle before splitting.
        num_splits: 10 in the literature; at most N are used.

    Returns:
        A score in [1, K].
    """
    from torchmetrics.image.inception import InceptionScore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "will save all features"; std of a single split
        # The pictures given are all there are: those of other processes are asked for by whoever calls this.
        metric = InceptionScore(feature=nn.Identity(), splits=min(num_splits, len(logits)), sync_on_compute=False)
        metric.update(logits.double())
        return with_seed(seed, lambda: metric.compute()[0].item())


def compute(
    generated: FeatureSet,
    reference: Reference,  # noqa: ARG001  (one signature for all metrics)
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,
) -> dict[str, float]:
    """Column "is".

    Raises:
        DataError: the detector gave no logits.
    """
    if generated.logits is None:
        raise DataError(
            "the inception score needs class logits, which this detector does not give. Load the detector with its "
            "logits, or leave out the metric 'is'."
        )
    return {"is": inception_score(generated.logits, seed=seed)}


def inception_scores_without(logits: Tensor, parts: Parts, *, seed: int, num_splits: int = NUM_SPLITS) -> list[float]:
    """Scores (G,) that have one part left out each, all by the same splits: shuffling anew would move them too.

    Args:
        logits: (N, K).
        parts: of the N pictures.
        seed, num_splits: as `inception_score`.
    """
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    totals = torch.zeros(parts.count, dtype=torch.float64)
    splits = order.chunk(min(num_splits, len(logits)))
    for split in splits:
        log_p = logits[split].double().log_softmax(dim=1)  # (S, K)
        members = one_hot(parts.own[split], parts.count).double()  # (S, G)
        p, negentropy = log_p.exp(), (log_p.exp() * log_p).sum(dim=1)  # (S, K), (S,)
        kept = len(split) - members.sum(dim=0)  # (G,)
        marginal = (p.sum(dim=0) - members.T @ p).clamp(min=0) / kept[:, None]  # (G, K)
        divergence = (negentropy.sum() - members.T @ negentropy) / kept - torch.xlogy(marginal, marginal).sum(dim=1)
        totals += divergence.exp()
    return (totals / len(splits)).tolist()


def without(
    generated: FeatureSet,
    reference: Reference,  # noqa: ARG001
    parts: Parts,
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,
) -> dict[str, list[float]]:
    """Column "is", see `inception_scores_without`."""
    return {"is": inception_scores_without(generated.logits, parts, seed=seed)}


METRIC = Metric(name="is", columns=("is",), better="higher", compute=compute, needs_logits=True, without=without)
