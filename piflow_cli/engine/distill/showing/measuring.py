"""Metrics of a student in training, by a detector: of pictures that are drawn for it and not kept."""

from __future__ import annotations

import torch
from torch import Tensor

from piflow_cli import registry
from piflow_cli.core.interfaces import DataSource
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.distill.showing.drawing import Drawer
from piflow_cli.engine.distill.showing.scene import measured_scene
from piflow_cli.engine.students.yardstick import EMBEDDED_TEACHERS
from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, extract_features
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.detectors.reference import load_reference
from piflow_cli.metrics.metric import WHOLE, Metric
from piflow_cli.preset import Preset


class Measure:
    """What a validation measures: the same conditions and noise every time.

    Args:
        preset: whose `[validation]` says how many pictures and which metrics.
        data: whose prompts or classes are drawn.
        drawer: of the run.

    Raises:
        DataError: no detector or reference, or a metric that cannot be measured so.
        ModelError: the detector cannot be loaded.
    """

    def __init__(self, preset: Preset, data: DataSource, *, drawer: Drawer) -> None:
        asked = preset.validation
        shipped = EMBEDDED_TEACHERS.get(preset.teacher.source)
        detector = asked.detector or (shipped.detector if shipped else None)
        reference = asked.reference or (shipped.reference if shipped else None)
        if detector is None or reference is None:
            raise DataError(
                f"validation.samples {asked.samples}: nothing ships to measure students of {preset.teacher.source} by. "
                "Set validation.detector (a file or URL of the Inception network) and validation.reference (a folder "
                "of real pictures, or statistics), or leave samples out for the paired error alone"
            )
        self.drawer, self.seed = drawer, preset.training.seed
        self.scene, self.labels = measured_scene(data, drawer.teacher.space, asked.samples)
        self.metrics: list[Metric] = [registry.resolve("metric", name) for name in asked.metrics]
        for name, metric in zip(asked.metrics, self.metrics, strict=True):
            if metric.groups is not None or metric.reads != WHOLE or (metric.needs_labels and self.labels is None):
                raise DataError(
                    f"validation.metrics: {name} needs pictures of its own, a model of its own, or the classes that "
                    "were asked for; leave it to `piflow benchmark`"
                )
        needs_logits = any(metric.needs_logits for metric in self.metrics)
        self.detector = load_detector(detector, device=drawer.device, with_logits=needs_logits)
        self.reference = load_reference(reference, detector=self.detector)

    def scores(self, settings: SamplingSettings, *, step: int) -> dict[str, float]:
        """Scores of the student by column of each metric, the same in all processes.

        Raises:
            SamplingError: its pictures are not finite.
        """
        found = self.drawer.together.each_does(lambda: self._features(settings, step=step))
        count = len(self.scene)
        logits = None if found.logits is None else self.drawer.joined(found.logits, count)
        features = FeatureSet(self.drawer.joined(found.features, count), logits)
        scores: dict[str, float] = {}
        for metric in self.metrics:
            scores |= metric.compute(features, self.reference, labels=self.labels, seed=self.seed)
        return scores

    def _features(self, settings: SamplingSettings, *, step: int) -> FeatureSet:
        """Of this process's share; none where it is empty."""
        if not self.drawer.share(len(self.scene)):
            width = self.detector.feature_dim
            return FeatureSet(torch.empty(0, width), torch.empty(0, 1) if self._has_logits else None)
        return extract_features(self.detector, self.drawer.share_by_student(self.scene, settings, step=step))

    @property
    def _has_logits(self) -> bool:
        return any(metric.needs_logits for metric in self.metrics)


def column_name(column: str, nfe: int) -> str:
    """What a score is called in metrics.jsonl and by trackers."""
    return f"validation/{column}_{nfe}nfe"


def mean(errors: Tensor) -> float:
    """Of (N,) errors, in float64, so that it does not depend on how they were shared."""
    return float(errors.double().mean())
