"""What judges share: loading models of transformers from a folder or the hub, and metrics of what they say."""
# N pictures.

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from piflow_cli.errors import DataError, ModelError
from piflow_cli.io.texts.names import first_line
from piflow_cli.io.weights import without_bars
from piflow_cli.metrics.detectors.folders import model_folder
from piflow_cli.metrics.metric import Judgement, Metric, score_of_features

P = TypeVar("P")


@contextmanager
def used_as(kind: str, spec: str) -> Iterator[None]:
    """Turn whatever goes wrong in making a judge into a ModelError that names it; ModelErrors pass as they are.

    Args:
        kind: what the model has to be.
        spec: folder or hub id.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # damage, models of other things and missing packages share no ground class
        raise ModelError(f"{spec} cannot be used as {kind}: {first_line(error)}") from None


def load_judge(
    spec: str, *, model: Callable[..., nn.Module], prepares: Callable[[Path], P], kind: str, dtype: torch.dtype | str
) -> tuple[nn.Module, P, str]:
    """A model in evaluation mode, what prepares its input, and a name that says model and weights.

    Args:
        spec: folder or hub id.
        model: `from_pretrained` of its class; no code of the folder's own is run.
        prepares: of the folder, what makes tensors of pictures and texts: by Pillow, whatever else is installed.
        kind: what the model has to be, for messages.

    Raises:
        ModelError: missing, damaged or of another kind.
    """
    found = model_folder(spec)
    folder = found.path
    with used_as(kind, spec):
        with without_bars():
            network, info = model(folder, dtype=dtype, output_loading_info=True, **found.reading)
        if info["missing_keys"] or info["mismatched_keys"]:
            lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
            raise ModelError(f"{folder} is not {kind}: it lacks {len(lacking)} of its weights, such as {lacking[0]}.")
        preparation = prepares(folder)
    return network.eval().requires_grad_(False), preparation, found.name(network.config.model_type)


def prepared(processor: Any) -> str:
    """What a processor of pictures does, in short: its class and a hash of its settings, whoever saved them."""
    said = {key: value for key, value in processor.to_dict().items() if not key.startswith(("_", "processor_class"))}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return f"{type(processor).__name__} {digest}"


def mean_score(said: Tensor) -> float:
    """Mean of what a judge said (N, 1).

    Raises:
        DataError: it said something that is not finite.
    """
    if not len(said) or not said.isfinite().all():
        raise DataError("the judge gave scores that are not finite: the pictures or its weights hold NaN or infinity.")
    return said.double().mean().item()


def judged_metric(name: str, judgement: Judgement, *, least: float | None = None) -> Metric:
    """The metric that fills column `name` with the mean of what a judge says, which of a video is that of its stills.

    Args:
        name: of the metric and its column; more is better.
        judgement: what is read.
        least: below which what is said of a picture counts as this.
    """

    def score(said: Tensor) -> float:
        return mean_score(said if least is None else said.clamp(min=least))

    return score_of_features(name, score, better="higher", reads=judgement, takes="both")
