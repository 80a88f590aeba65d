"""HPSv2 (arXiv 2306.09341): human preference by a CLIP ViT-H, in the form of transformers."""

import torch

from piflow_cli.metrics.metric import Judgement
from piflow_cli.metrics.prompted.clip import ClipJudge, letterboxed, load_clip
from piflow_cli.metrics.prompted.models import judged_metric

SCALE = 100.0


def load(spec: str, device: str | torch.device) -> ClipJudge:
    """A judge that says 100 times the cosine of whole pictures, as HPSv2's benchmark prints it."""
    return load_clip(spec, device, scale=SCALE, prepare=letterboxed)


METRIC = judged_metric("hpsv2", Judgement(load))
