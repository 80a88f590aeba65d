"""The floors of the teacher that a student or a preset names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from piflow_cli.core.settings import MAX_SEED
from piflow_cli.engine.benchmark.floors.floors import Floors, cheapest, check_evaluations, find_floors, record
from piflow_cli.engine.students.device import resolve_device, resolve_dtype
from piflow_cli.engine.students.find import find_student
from piflow_cli.engine.students.load import read_student
from piflow_cli.errors import DataError, ModelError
from piflow_cli.io.presets import preset_paths
from piflow_cli.preset import load_preset

TRAJECTORIES, ITERATIONS = 8, 120
USUAL_NFE = (1, 2, 4, 8)


def limits_of(
    source: str,
    *,
    nfe: Sequence[int] = USUAL_NFE,
    tolerance: float = 1e-3,
    trajectories: int = TRAJECTORIES,
    iterations: int = ITERATIONS,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Floors:
    """Record a teacher and find the least error of every policy on what was recorded.

    Args:
        source: a preset's name or file, or a student as `open_student` takes it; its teacher and time grid are meant.
        nfe: evaluations, each of which divides 64.
        tolerance: that the cheapest policy has to meet: squared distance over squared length of the way.
        trajectories: of the teacher, on prompts or classes that show what it can do.
        iterations: of each fit.
        seed: of the noise.
        device, dtype: of the teacher.
        on_progress: called with (fits done, all fits, words).

    Raises:
        DataError: a number out of range.
        PresetError, ModelError, DeviceError: there is no such preset, student or teacher, or no such device.
    """
    if not tolerance > 0:
        raise DataError(f"tolerance is {tolerance}; it must be above 0, such as 0.001")
    if not 0 <= seed <= MAX_SEED:
        raise DataError(f"seed is {seed}; it must be at least 0, and at most {MAX_SEED:,}")
    check_evaluations(nfe)
    if source in preset_paths() or source.endswith(".toml"):
        preset = load_preset(source)
        family, sampling = preset.teacher, preset.sampling
    else:
        card = read_student(_found(source))[0].card
        family, sampling = card.teacher, card.sampling
    target = resolve_device(device)
    teacher = family.load(device=target, dtype=resolve_dtype(dtype, target))
    recording = record(teacher, trajectories=trajectories, shift=sampling.time_shift, seed=seed)
    rows = find_floors(recording, nfe=nfe, iterations=iterations, on_progress=on_progress)
    return Floors(teacher.name, sampling.shift, trajectories, tolerance, tuple(rows), cheapest(rows, tolerance))


def _found(source: str) -> Path:
    """Where a student is.

    Raises:
        ModelError: there is none of this name.
    """
    try:
        return find_student(source)
    except ModelError as error:
        raise ModelError(f"{error} Or name a preset: piflow presets list shows them.") from None
