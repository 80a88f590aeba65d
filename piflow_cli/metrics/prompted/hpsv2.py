"""HPSv2 (arXiv 2306.09341): human preference by a CLIP ViT-H, in the form of transformers."""

import torch
from torch import Tensor

from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.metric import Judgement, Metric
from piflow_cli.metrics.prompted.clip import ClipJudge, letterboxed, load_clip
from piflow_cli.metrics.prompted.models import mean_score

SCALE = 100.0


def load(spec: str, device: str | torch.device) -> ClipJudge:
    """A judge that says 100 times the cosine of whole pictures, as HPSv2's benchmark prints it."""
    return load_clip(spec, device, scale=SCALE, prepare=letterboxed)


def compute(
    generated: FeatureSet,
    reference: Reference,  # noqa: ARG001  (one signature for all metrics)
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,  # noqa: ARG001
) -> dict[str, float]:
    """Column "hpsv2"."""
    return {"hpsv2": mean_score(generated)}


METRIC = Metric(name="hpsv2", columns=("hpsv2",), better="higher", compute=compute, reads=Judgement(load))
