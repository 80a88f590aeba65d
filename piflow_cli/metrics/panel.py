"""All that looks at pictures for a set of metrics: the run's detector, other detectors, and judges who read prompts."""
# B batch, D features, C, H, W picture.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from piflow_cli.errors import DataError, ModelError
from piflow_cli.metrics.detectors.features import Detector, FeatureSet, join_features
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.detectors.pixels import PixelDetector
from piflow_cli.metrics.detectors.torchscript import INCEPTION_URL
from piflow_cli.metrics.detectors.vision import VisionDetector
from piflow_cli.metrics.metric import WHOLE, Features, Judge, Judgement, Metric
from piflow_cli.metrics.moving.stills import look_at_stills

T = TypeVar("T")
SEEN_AT_ONCE = 32
"""Pictures that a model of a metric's own takes in one pass: these are large, and a benchmark's batches may be too."""

Seat = Features | Judgement
"""What is read of pictures; metrics that read the same share it."""


@dataclass(frozen=True)
class Panel:
    """Detectors and judges by what they give.

    Args:
        detector: the run's, whose features of each row are always there.
        detectors: of metrics that read other features.
        judges: of metrics that read judgements.
    """

    detector: Detector
    detectors: dict[Features, Detector]
    judges: dict[Judgement, Judge]

    @classmethod
    def of(cls, metrics: Sequence[Metric], detector: Detector, *, device: torch.device) -> Panel:
        """Load what metrics bring themselves.

        Raises:
            DataError: a metric needs a classifier, and its model is none.
            ModelError: a model that cannot be had or used, with how to name another.
        """
        detectors: dict[Features, Detector] = {}
        judges: dict[Judgement, Judge] = {}
        for metric in metrics:
            reads = metric.reads
            if isinstance(reads, Judgement) and reads not in judges:
                judges[reads] = _naming(metric, lambda reads=reads: reads.load(reads.model, device))
            elif isinstance(reads, Features) and reads != WHOLE and reads not in detectors:
                own = detector
                if reads.model is not None:
                    logits = any(other.needs_logits for other in metrics if other.reads == reads)
                    own = _naming(
                        metric,
                        lambda reads=reads, logits=logits: load_detector(
                            reads.model, device=device, with_logits=logits
                        ),
                    )
                    require_classifier(own, [other for other in metrics if other.reads == reads])
                detectors[reads] = own if reads.view is None else reads.view(own)
        return cls(detector, detectors, judges)

    def detector_of(self, seat: Features) -> Detector:
        """Who gives these features."""
        return self.detector if seat == WHOLE else self.detectors[seat]

    def title(self, metric: Metric, heading: str) -> str:
        """How a metric's score is headed."""
        reads = metric.reads
        who = self.judges[reads] if isinstance(reads, Judgement) else self.detector_of(reads)
        return who.title(heading)

    def names(self, metrics: Sequence[Metric]) -> dict[str, str]:
        """By metric, the model that gives what it reads, where it is not the run's detector."""
        who: dict[Seat, Detector | Judge] = {**self.detectors, **self.judges}
        return {metric.name: who[metric.reads].name for metric in metrics if metric.reads in who}

    def described(self, metrics: Sequence[Metric]) -> dict[str, str]:
        """By name, all that looks at pictures for these metrics, and what decides what it says."""
        seats = seats_of(metrics)
        others = (self.detector_of(seat) for seat in seats if isinstance(seat, Features))
        detectors = dict.fromkeys([self.detector, *others])  # each once: a description reads all weights
        judges = {m.name: self.judges[m.reads] for m in metrics if isinstance(m.reads, Judgement)}
        said = {f"{metric} by {who.name}": who.described() for metric, who in judges.items()}
        return {who.name: who.described() for who in detectors} | said

    def look(self, images: Tensor, prompts: Sequence[str] | None, seats: Sequence[Seat]) -> dict[Seat, FeatureSet]:
        """What each seat says of a batch.

        Args:
            images: (B, C, H, W), or videos (B, C, F, H, W), in [0, 1], on the CPU.
            prompts: B, where any seat is a judge's.
            seats: whose word is wanted.

        Raises:
            DataError, ModelError: pictures that a model cannot see.
        """
        return {seat: self._look(images, prompts, seat) for seat in seats}

    def _look(self, images: Tensor, prompts: Sequence[str] | None, seat: Seat) -> FeatureSet:
        way = "mean" if isinstance(seat, Judgement) else seat.frames
        if images.ndim == 5 and way != "all":
            return look_at_stills(images, prompts, partial(self._look, seat=seat), mean=way == "mean")
        if isinstance(seat, Features) and seat.model is None:
            return self.detector_of(seat)(images)
        parts = []
        for start in range(0, len(images), SEEN_AT_ONCE):
            some = images[start : start + SEEN_AT_ONCE]
            if isinstance(seat, Features):
                parts.append(self.detectors[seat](some))
            else:
                parts.append(self.judges[seat](some, (prompts or ())[start : start + SEEN_AT_ONCE]))
        return join_features(parts)


def require_classifier(detector: Detector, metrics: Sequence[Metric]) -> None:
    """Refuse a detector without classes where metrics need them.

    Raises:
        DataError: it has none.
    """
    needing = [metric.name for metric in metrics if metric.needs_logits]
    if needing and isinstance(detector, PixelDetector | VisionDetector):
        raise DataError(
            f"{', '.join(needing)} needs a classifier, and detector {detector.name} is none: pass --detector with the "
            f"TorchScript Inception network of the papers, as a file or by its URL {INCEPTION_URL}"
        )


def seats_of(metrics: Sequence[Metric]) -> list[Seat]:
    """What metrics read, each once."""
    return list(dict.fromkeys(metric.reads for metric in metrics))


def _naming(metric: Metric, load: Callable[[], T]) -> T:
    """What `load` gives; its errors say which metric it was for and how to name another model."""
    try:
        return load()
    except ModelError as error:
        raise ModelError(
            f"{metric.name} cannot be measured: {error} A model's folder is named so: --metric {metric.name}=FOLDER"
        ) from None
