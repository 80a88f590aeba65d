"""CLIP score (arXiv 2104.08718): how well pictures match their prompts."""

import torch
from torch import Tensor

from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.metric import Judgement, Metric
from piflow_cli.metrics.prompted.clip import ClipJudge, load_clip
from piflow_cli.metrics.prompted.models import mean_score

CLIP = "openai/clip-vit-large-patch14-336"
"""What pi-Flow's tables are measured by, which give the cosine itself."""
SCALE = 100.0


def load(spec: str, device: str | torch.device) -> ClipJudge:
    """A judge that says 100 times the cosine."""
    return load_clip(spec, device, scale=SCALE)


def compute(
    generated: FeatureSet,
    reference: Reference,  # noqa: ARG001  (one signature for all metrics)
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,  # noqa: ARG001
) -> dict[str, float]:
    """Column "clip-score"."""
    return {"clip-score": mean_score(FeatureSet(generated.features.clamp(min=0)))}


METRIC = Metric(
    name="clip-score", columns=("clip-score",), better="higher", compute=compute, reads=Judgement(load, CLIP)
)
