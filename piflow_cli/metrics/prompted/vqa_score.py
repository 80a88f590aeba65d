"""VQAScore (arXiv 2404.01291): the probability that a model answers yes, asked whether a picture shows its prompt."""

import torch

from piflow_cli.metrics.metric import Judgement
from piflow_cli.metrics.prompted.chat import ChatJudge, load_chat
from piflow_cli.metrics.prompted.models import judged_metric

LLAVA = "llava-hf/llava-1.5-7b-hf"
"""One of the paper's models; its best, CLIP-FlanT5, has no class in transformers."""
QUESTION, ANSWER = 'Does this figure show "{}"? Please answer yes or no.', "Yes"


def load(spec: str, device: str | torch.device) -> ChatJudge:
    """A judge that says the probability of a yes."""
    return load_chat(spec, device, question=QUESTION, answer=ANSWER)


METRIC = judged_metric("vqa-score", Judgement(load, LLAVA))
