"""PickScore (arXiv 2305.01569): what people prefer of two pictures of a prompt, by a CLIP trained on their choices."""

import torch

from piflow_cli.metrics.metric import Judgement
from piflow_cli.metrics.prompted.clip import ClipJudge, load_clip
from piflow_cli.metrics.prompted.models import judged_metric

PICKSCORE = "yuvalkirstain/PickScore_v1"


def load(spec: str, device: str | torch.device) -> ClipJudge:
    """A judge that says 100 times the cosine, by its own learned scale."""
    return load_clip(spec, device, scale=None)


METRIC = judged_metric("pickscore", Judgement(load, PICKSCORE))
