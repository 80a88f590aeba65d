"""VQAScore (arXiv 2404.01291): the probability that a model answers yes, asked whether a picture shows its prompt."""

import torch
from torch import Tensor

from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.metric import Judgement, Metric
from piflow_cli.metrics.prompted.chat import ChatJudge, load_chat
from piflow_cli.metrics.prompted.models import mean_score

LLAVA = "llava-hf/llava-1.5-7b-hf"
"""One of the paper's models; its best, CLIP-FlanT5, has no class in transformers."""
QUESTION, ANSWER = 'Does this figure show "{}"? Please answer yes or no.', "Yes"


def load(spec: str, device: str | torch.device) -> ChatJudge:
    """A judge that says the probability of a yes."""
    return load_chat(spec, device, question=QUESTION, answer=ANSWER)


def compute(
    generated: FeatureSet,
    reference: Reference,  # noqa: ARG001  (one signature for all metrics)
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,  # noqa: ARG001
) -> dict[str, float]:
    """Column "vqa-score"."""
    return {"vqa-score": mean_score(generated)}


METRIC = Metric(
    name="vqa-score", columns=("vqa-score",), better="higher", compute=compute, reads=Judgement(load, LLAVA)
)
