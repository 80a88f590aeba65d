"""Class accuracy: how often the detector's classifier sees the class that was asked for."""
# N pictures, K classes.

from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.metric import Metric


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of pictures whose largest logit (N, K) is at their label (N,).

    Raises:
        DataError: the numbers of pictures and labels differ, or a label is not a class.
    """
    if len(logits) != len(labels):
        raise DataError(f"accuracy got {len(logits)} pictures but {len(labels)} labels: pass one label a picture.")
    num_classes = logits.shape[1]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DataError(
            f"accuracy got labels {int(labels.min())}..{int(labels.max())}; the detector knows 0..{num_classes - 1}."
        )
    return (logits.argmax(dim=1) == labels.to(logits.device)).double().mean().item()


def compute(
    generated: FeatureSet,
    reference: Reference,  # noqa: ARG001  (one signature for all metrics)
    *,
    labels: Tensor | None,
    seed: int,  # noqa: ARG001
) -> dict[str, float]:
    """Column "accuracy".

    Raises:
        DataError: there are no labels, or the detector gave no logits.
    """
    if generated.logits is None:
        raise DataError("accuracy needs class logits, which this detector does not give: leave out 'accuracy'.")
    if labels is None:
        raise DataError(
            "accuracy needs the class each picture was made for, and these pictures carry none. Measure a class model, "
            "or prompts of a .jsonl whose lines have a whole number 'label', or leave out 'accuracy'."
        )
    return {"accuracy": accuracy(generated.logits, labels)}


METRIC = Metric(
    name="accuracy", columns=("accuracy",), better="higher", compute=compute, needs_logits=True, needs_labels=True
)
