"""Frames of Wan's videos, and what of them a latent holds."""

from __future__ import annotations

from piflow_cli.errors import DataError

FRAME_FACTOR = 4
"""Frames a latent one, after the first, in every autoencoder of Wan."""


def latent_frames(frames: int) -> int:
    """T of videos of F frames: one, and one for every four that follow."""
    return 1 + (frames - 1) // FRAME_FACTOR


def check_frames(frames: int) -> None:
    """Raise DataError for frames that are not one and some times four."""
    if frames < 1 or (frames - 1) % FRAME_FACTOR:
        near = max(1, 1 + round((frames - 1) / FRAME_FACTOR) * FRAME_FACTOR)
        raise DataError(
            f"frames {frames} is not 1 more than a multiple of {FRAME_FACTOR}; the nearest one is {near} (the first "
            f"frame has a latent of its own, then {FRAME_FACTOR} share one)"
        )
