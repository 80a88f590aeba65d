"""CLIP score (arXiv 2104.08718): how well pictures match their prompts."""

import torch

from piflow_cli.metrics.metric import Judgement
from piflow_cli.metrics.prompted.clip import ClipJudge, load_clip
from piflow_cli.metrics.prompted.models import judged_metric

CLIP = "openai/clip-vit-large-patch14-336"
"""What pi-Flow's tables are measured by, which give the cosine itself."""
SCALE = 100.0


def load(spec: str, device: str | torch.device) -> ClipJudge:
    """A judge that says 100 times the cosine."""
    return load_clip(spec, device, scale=SCALE)


METRIC = judged_metric("clip-score", Judgement(load, CLIP), least=0)
