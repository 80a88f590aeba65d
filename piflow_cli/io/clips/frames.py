"""Which frames of a person's video are taken, by the moments at which they are shown.

Shapes: N frames of the file, F frames that are taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from piflow_cli.io.bounds import MAX_FRAME_PIXELS, MAX_FRAMES
from piflow_cli.io.images import PictureError

SLACK = 0.05
"""How much shorter than wanted a video may be; it is then taken as a whole. GIF counts hundredths of a second."""


@dataclass(frozen=True)
class Clip:
    """What is taken of a video.

    Args:
        frames: F, 2 or more.
        fps: frames a second.
        size_px: width and height.
        channels: 1 or 3.
    """

    frames: int
    fps: float
    size_px: tuple[int, int]
    channels: int

    @property
    def span_s(self) -> float:
        """Seconds from the beginning of the first frame to that of the last one."""
        return (self.frames - 1) / self.fps

    @property
    def wanted(self) -> str:
        """In words, for messages."""
        return f"{self.frames} at {self.fps:g} a second, {self.span_s:.2f} s, are wanted (teacher.frames, teacher.fps)"


def chosen_frames(times_s: Sequence[float], clip: Clip) -> list[int]:
    """Numbers of the F frames that are shown at F moments, 1/fps apart, in the middle of a video.

    A frame is shown until the next one begins: of a video with more frames a second some are passed over, of one with
    fewer some come twice. Nothing is blended.

    Args:
        times_s: N ascending moments at which frames begin to be shown, in seconds.
        clip: what is wanted.

    Raises:
        PictureError: N < 2, a video that is too short by more than `SLACK`, or fewer than half of the F frames differ.

    Source: ours; the middle, as pictures are cropped to theirs.
    """
    times = np.asarray(times_s, dtype=np.float64)
    if len(times) < 2:
        has = "one frame: it is a picture" if len(times) else "no frames"
        raise PictureError(f"it has {has}, and {clip.wanted}")
    span = times[-1] - times[0]
    if span < clip.span_s * (1 - SLACK):
        raise PictureError(
            f"it is too short: it has {len(times)} frames in {span:.2f} s, and {clip.wanted}. Take a longer one, or "
            "train on fewer frames"
        )
    step = min(1 / clip.fps, span / (clip.frames - 1))
    start = times[0] + (span - step * (clip.frames - 1)) / 2
    rounding = min(step, span / (len(times) - 1)) / 4  # times of files are rounded, to 10 ms in GIF
    moments = start + step * np.arange(clip.frames) + rounding
    chosen = np.searchsorted(times, moments, side="right") - 1
    if 2 * (different := len(set(chosen.tolist()))) < clip.frames:
        raise PictureError(
            f"it has too few frames a second: {different} different ones in the {clip.span_s:.2f} s of its middle, and "
            f"{clip.wanted}, at least half of them different"
        )
    return chosen.tolist()


def check_frame(width: int, height: int) -> None:
    """Raise PictureError for frames larger than are decoded."""
    if width * height > MAX_FRAME_PIXELS:
        raise PictureError(
            f"its frames have {width} x {height} pixels; up to {MAX_FRAME_PIXELS} are read. Scale it down"
        )


def check_count(count: int) -> None:
    """Raise PictureError for more frames than are listed."""
    if count > MAX_FRAMES:
        raise PictureError(f"it has {count:,} frames or more; up to {MAX_FRAMES:,} are read. Cut it into clips")
