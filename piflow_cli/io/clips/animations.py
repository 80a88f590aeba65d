"""Animated GIF and WebP by Pillow, a frame in memory at a time.

Shapes: F frames, H, W size in pixels, C channels.
"""

from io import BytesIO

import numpy as np
from PIL import Image

from piflow_cli.io.bounds import MAX_ANIMATION_PIXELS
from piflow_cli.io.clips.frames import Clip, check_count, check_frame, chosen_frames
from piflow_cli.io.images import FORMATS, PictureError, cover, plain

KINDS = ("GIF", "WEBP")
LEAST_MS, USUAL_MS = 10, 100
"""A frame that is to be shown no longer than the first of these is shown for the second, as browsers do."""
GIF_END = b";"


def read_animation(content: bytes, clip: Clip) -> np.ndarray:
    """Frames (F, H, W, C) uint8 of an animated GIF or WebP, each as pictures are read: on white, in sRGB, its middle.

    Raises:
        PictureError: it is a picture, damaged, cut short, too large or too short.
    """
    times = _times(content)
    wanted = chosen_frames(times, clip)
    taken: dict[int, np.ndarray] = {}
    with Image.open(BytesIO(content), formats=KINDS) as image:
        for number in sorted(set(wanted)):
            image.seek(number)
            image.load()
            frame = cover(plain(image.copy(), bits=8), size_px=clip.size_px, channels=clip.channels)
            taken[number] = np.asarray(frame).reshape(clip.size_px[1], clip.size_px[0], clip.channels)
    return np.stack([taken[number] for number in wanted])


def _times(content: bytes) -> list[float]:
    """Seconds at which each frame begins; every frame is decoded for it."""
    with Image.open(BytesIO(content), formats=FORMATS) as image:
        if image.format not in KINDS:
            raise PictureError(f"it is a picture ({image.format}), and the teacher draws videos")
        check_frame(image.width, image.height)
        if image.format == "GIF" and content.rstrip(b"\0")[-1:] != GIF_END:
            raise PictureError("it is cut short: it has no end")
        count = image.n_frames
        check_count(count)
        if count * image.width * image.height > MAX_ANIMATION_PIXELS:
            raise PictureError(
                f"it has {count} frames of {image.width} x {image.height} pixels; up to {MAX_ANIMATION_PIXELS:,} in "
                "all are read. Scale it down, or cut it into clips"
            )
        times, ends_ms = [], 0.0
        for number in range(count):
            image.seek(number)
            image.load()
            times.append(ends_ms / 1000)
            shown = image.info.get("duration", 0)
            ends_ms += shown if shown > LEAST_MS else USUAL_MS
    return times
