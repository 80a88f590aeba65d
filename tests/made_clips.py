"""Small video files whose frames say their number: frame n is of one grey, 10 n + 20."""

from fractions import Fraction
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

NEEDS_AV = pytest.mark.skipif(find_spec("av") is None, reason="needs av (PyAV) to write and read .mp4 and .webm")
STEP, FIRST = 10, 20


def greys(count: int, *, size: tuple[int, int] = (48, 64)) -> list[Image.Image]:
    """Frames of rising greys."""
    return [Image.new("RGB", size, (STEP * n + FIRST,) * 3) for n in range(count)]


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of `greys` these (F, H, W, C) are."""
    return [round((float(frame.mean()) - FIRST) / STEP) for frame in frames]


def animation(frames: list[Image.Image], *, kind: str = "GIF", duration_ms: int = 60) -> bytes:
    """An animated GIF or WebP."""
    buffer = BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=duration_ms, loop=0, **options)
    return buffer.getvalue()


def container(frames: list[Image.Image], *, kind: str = "mp4", fps: float = 16, sound: bool = False) -> bytes:
    """An .mp4 or .mov (H.264, with frames that look ahead), or a .webm (VP9)."""
    import av

    buffer = BytesIO()
    with av.open(buffer, "w", format=kind) as file:
        rate = Fraction(fps).limit_denominator(1001)
        codec, options = (
            ("libvpx-vp9", {"crf": "20", "b": "0"}) if kind == "webm" else ("libx264", {"crf": "4", "bf": "2"})
        )
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        heard = file.add_stream("aac", rate=8000) if sound else None
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_image(frame)))
        file.mux(stream.encode())
        if heard is not None:
            for _ in range(8):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.sample_rate = 8000
                file.mux(heard.encode(silence))
            file.mux(heard.encode())
    return buffer.getvalue()


def only_sound() -> bytes:
    """An .mp4 without pictures."""
    import av

    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        heard = file.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        file.mux(heard.encode(silence))
        file.mux(heard.encode())
    return buffer.getvalue()
