"""The record that each metric's file exports as METRIC, what metrics read, and the checks that they share."""
# B batch, N pictures, D features, C, H, W picture.

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from piflow_cli import registry
from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import Detector, FeatureSet, Reference
from piflow_cli.metrics.intervals.parts import Parts


class Compute(Protocol):
    """Scores by column name; `seed` fixes any subsets that are drawn.

    `labels` (N,) are the classes asked for, None where nothing says them; for a metric of groups they say instead which
    group each picture belongs to, and are always there.
    """

    def __call__(
        self, generated: FeatureSet, reference: Reference, *, labels: Tensor | None, seed: int
    ) -> dict[str, float]: ...


class ComputeWithout(Protocol):
    """By column, the scores (G,) that have one part of the pictures left out each."""

    def __call__(
        self, generated: FeatureSet, reference: Reference, parts: Parts, *, labels: Tensor | None, seed: int
    ) -> dict[str, list[float]]: ...


@dataclass(frozen=True)
class Groups:
    """Pictures that a metric is measured on where they are not the row's own: several of each of the first prompts.

    Args:
        num_groups: different prompts, or classes; all of them where there are fewer.
        group_size: pictures of each, from other noise.
    """

    num_groups: int
    group_size: int


class Judge(Protocol):
    """A network that says something of each picture and of the prompt it was asked by."""

    name: str

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> FeatureSet:
        """What it says (B, D) of (B, C, H, W) pictures, float in [0, 1], and their B prompts, on the CPU."""
        ...

    def title(self, metric: str) -> str:
        """How a score is headed in a table: with the judge's name, as scores of others do not compare."""
        ...

    def described(self) -> str:
        """What decides its words besides pictures and prompts: how these are prepared, and a digest of weights."""
        ...


@dataclass(frozen=True)
class Features:
    """A metric reads features of pictures.

    Args:
        model: folder or hub id of the vision model that gives them; None is the run's detector.
        view: of a detector, the one that sees of each picture what the metric is about; None is all of it.
        frames: of a video, features of stills side by side, their mean, or those of the video itself, (B, C, F, H, W),
            by a view that takes it whole.
    """

    model: str | None = None
    view: Callable[[Detector], Detector] | None = None
    frames: Literal["joined", "mean", "all"] = "joined"


WHOLE = Features()
"""All of a picture, by the run's detector."""


@dataclass(frozen=True)
class Judgement:
    """A metric reads what a judge says of pictures and their prompts.

    Args:
        load: (folder or hub id, device) -> the judge.
        model: folder or hub id; None where the user has to name one.
    """

    load: Callable[[str, str | torch.device], Judge]
    model: str | None = None


@dataclass(frozen=True)
class Metric:
    """One metric family: its name, the columns it fills, which direction is better, and what it reads.

    Args:
        reads: features, or a judge's words.
        frechet: whether it is a Fréchet distance, which few pictures make too large.
        needs_reference: whether it compares pictures to others.
        without: a way to the scores that have parts of the pictures left out, for intervals; None computes each anew.
        of_patches: what it reads of pictures that networks draw in patches of (height, width) pixels; None where
            patches are nothing to it.
        of_pixels: whether no network is read.
        takes: what its samples may be. A metric that says nothing is of pictures, and refused for videos.
    """

    name: str
    columns: tuple[str, ...]
    better: Literal["lower", "higher"]
    compute: Compute
    reads: Features | Judgement = WHOLE
    frechet: bool = False
    needs_logits: bool = False
    needs_labels: bool = False
    needs_reference: bool = False
    needs_reference_features: bool = False
    groups: Groups | None = None
    without: ComputeWithout | None = None
    of_patches: Callable[[tuple[int, int]], Features] | None = None
    of_pixels: bool = False
    takes: Literal["pictures", "videos", "both"] = "pictures"

    def on_patches(self, patch_px: tuple[int, int]) -> "Metric":
        """The metric of pictures drawn in patches of (height, width) pixels; itself where that is nothing to it."""
        return self if self.of_patches is None else replace(self, reads=self.of_patches(patch_px))


def score_of_features(
    name: str, score: Callable[[Tensor], float], *, better: Literal["lower", "higher"], **options: Any
) -> Metric:
    """A metric that fills the column of its name from features (N, D) alone.

    Args:
        name: of the metric and its column.
        score: of features.
        better: which direction is.
        options: what else the metric says of itself, as `Metric`.
    """

    def compute(
        generated: FeatureSet,
        reference: Reference,  # noqa: ARG001  (one signature for all metrics)
        *,
        labels: Tensor | None,  # noqa: ARG001
        seed: int,  # noqa: ARG001
    ) -> dict[str, float]:
        return {name: score(generated.features)}

    return Metric(name=name, columns=(name,), better=better, compute=compute, **options)


def metric_of(spec: str) -> Metric:
    """The metric that `NAME` or `NAME=MODEL` says, the latter by a model of its own.

    Raises:
        DataError: no model where one is needed, or one where no network is read.
        PiflowError: an unknown name.
    """
    name, equals, model = spec.partition("=")
    metric: Metric = registry.resolve("metric", name)
    if equals and not model:
        raise DataError(f"{spec!r} names no model after the sign: write {name}=FOLDER, or {name}=OWNER/NAME of the hub")
    if model and metric.of_pixels:
        raise DataError(f"{name} reads pixels and no network: write --metric {name} without ={model[:60]}")
    if model:
        return replace(metric, reads=replace(metric.reads, model=model))
    if isinstance(metric.reads, Judgement) and metric.reads.model is None:
        raise DataError(
            f"{name} has no model to be judged by: write --metric {name}=FOLDER; docs/benchmark.md says of what"
        )
    return metric


def require_same_dim(generated: FeatureSet, reference: Reference) -> None:
    """Refuse features of another detector than the reference's.

    Raises:
        DataError: the feature dimensions differ.
    """
    generated_dim, reference_dim = generated.features.shape[1], len(reference.mean)
    if generated_dim != reference_dim:
        raise DataError(
            f"the pictures have {generated_dim} features each but reference {reference.name!r} has {reference_dim} "
            f"(detector {reference.detector!r}): measure both with the same detector."
        )


def require_reference_features(reference: Reference, metric: str) -> Tensor:
    """The reference's features (M, D).

    Raises:
        DataError: the reference holds only a mean and a covariance.
    """
    if reference.features is None:
        raise DataError(
            f"{metric} needs the features of every reference picture, but reference {reference.name!r} holds only "
            "their mean and covariance (enough for FID alone). Pass the folder of reference pictures instead."
        )
    return reference.features


def with_seed(seed: int, function: Callable[[], float]) -> float:
    """Call `function` with torch's global generator seeded, and put the generator back (torchmetrics draws from it)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function()
