"""The ways in which a benchmark holds the base of every student: whole, or quantised while it loads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from piflow_cli.engine.sample.open import Dtype, open_student
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.engine.students.shared import Bases
from piflow_cli.errors import DataError
from piflow_cli.metrics.metric import Metric, metric_of
from piflow_cli.metrics.texture.grid_energy import check_grid
from piflow_cli.teachers.text.loading.quantization import check_quantization

WHOLE: Literal["none"] = "none"
"""What the way is called that leaves the base as it is."""
GRID = "grid-energy"


def check_ways(ways: Sequence[str], models: Sequence[str | LoadedStudent], *, device: torch.device) -> list[str | None]:
    """Each way once, the whole base first, which others are compared to; None, as students say, without any.

    Raises:
        ModelError: there is no such way.
        MissingExtraError: its library is not installed.
        DeviceError: it is none for this device.
        DataError: students that are loaded already, whose bases are what they are.
    """
    for way in ways:
        check_quantization(way, device=device)
    loaded = [model.name for model in models if isinstance(model, LoadedStudent)]
    if ways and loaded:
        raise DataError(f"{', '.join(loaded)} is loaded already: a base is quantised while it loads, so pass its name")
    return sorted(dict.fromkeys(ways), key=lambda way: way != WHOLE) or [None]


def open_each(
    models: Sequence[str | LoadedStudent], ways: Sequence[str | None], *, device: str, dtype: Dtype, bases: Bases
) -> list[LoadedStudent]:
    """Every student on its base in every way; encoders and autoencoder of a base are there once.

    Raises: as `open_student`.
    """
    options = {"device": device, "dtype": dtype, "bases": bases}
    return [
        model if isinstance(model, LoadedStudent) else open_student(model, quantization=way, **options)
        for model in models
        for way in ways
    ]


def looking_for_grids(
    metrics: Sequence[Metric], patch_px: tuple[int, int], student: LoadedStudent
) -> tuple[list[Metric], list[str]]:
    """The metrics and, if it is not among them, the grid energy that quantised rows are looked at for; and warnings.

    Args:
        metrics: those that are asked for.
        patch_px: height and width of the patches that pictures are drawn in.
        student: any of them.
    """
    if any(metric.name == GRID for metric in metrics):
        return list(metrics), []
    width, height = student.space.size_px
    try:
        check_grid(patch_px, (height, width))
    except DataError as error:
        return list(metrics), [f"quantised bases are not looked at for grids: {error}"]
    return [*metrics, metric_of(GRID).on_patches(patch_px)], []
