"""PickScore (arXiv 2305.01569): what people prefer of two pictures of a prompt, by a CLIP trained on their choices."""

import torch
from torch import Tensor

from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.metric import Judgement, Metric
from piflow_cli.metrics.prompted.clip import ClipJudge, load_clip
from piflow_cli.metrics.prompted.models import mean_score

PICKSCORE = "yuvalkirstain/PickScore_v1"


def load(spec: str, device: str | torch.device) -> ClipJudge:
    """A judge that says 100 times the cosine, by its own learned scale."""
    return load_clip(spec, device, scale=None)


def compute(
    generated: FeatureSet,
    reference: Reference,  # noqa: ARG001  (one signature for all metrics)
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,  # noqa: ARG001
) -> dict[str, float]:
    """Column "pickscore"."""
    return {"pickscore": mean_score(generated)}


METRIC = Metric(
    name="pickscore", columns=("pickscore",), better="higher", compute=compute, reads=Judgement(load, PICKSCORE)
)
