"""Pictures inside a page: few, evenly spread, each of bounded size."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, features

from piflow_cli.io.images import PictureError, read_picture

SHEET = re.compile(r"step-(\d{1,9})\.png")
WIDTH_PX = 1280
"""Of a picture at most; a wider one is scaled down."""
HEIGHT_PX = 2560
QUALITIES = (82, 70, 55, 40)
SHRINK = 0.75
LEAST_PX = 32
FORMAT = "webp" if features.check("webp") else "jpeg"


@dataclass(frozen=True)
class Frame:
    """A picture of a step.

    Args:
        step: of the run.
        source: the picture as a data URL.
        width, height: in pixels.
    """

    step: int
    source: str
    width: int
    height: int


class Strip:
    """What a slider goes over: pictures of a folder, step-N.png each.

    Where there are too many, every second, fourth, ... one is kept and the newest, so that what was made smaller once
    is not made again.

    Args:
        folder: need not be there.
        most: frames at most.
        max_bytes: of a frame.
    """

    def __init__(self, folder: Path, *, most: int, max_bytes: int) -> None:
        self.folder, self.most, self.max_bytes = folder, most, max_bytes
        self._made: dict[Path, tuple[tuple[int, int], Frame | None]] = {}

    def frames(self) -> list[Frame]:
        """Those to be shown now, by step; pictures that cannot be read are left out."""
        chosen = spread(self._steps(), self.most)
        self._made = {path: self._made.get(path, ((0, 0), None)) for _, path in chosen}
        found = [self._frame(step, path) for step, path in chosen]
        return [frame for frame in found if frame is not None]

    def _steps(self) -> list[tuple[int, Path]]:
        try:
            paths = list(self.folder.iterdir())
        except OSError:  # none were drawn, or it is no folder
            return []
        named = [(SHEET.fullmatch(path.name), path) for path in paths]
        return sorted((int(match[1]), path) for match, path in named if match)

    def _frame(self, step: int, path: Path) -> Frame | None:
        try:
            facts = path.stat()
            known, frame = self._made[path]
            now = (facts.st_mtime_ns, facts.st_size)
            if known != now:
                frame = thumbnail(read_picture(path), step=step, max_bytes=self.max_bytes)
                self._made[path] = (now, frame)
            return frame
        except (OSError, PictureError):
            return None


def spread(steps: list[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    """At most `most` of a list: every 2^n-th from the first, and the last."""
    if len(steps) <= most:
        return steps
    stride = 2
    while -(-len(steps) // stride) >= max(2, most):  # one place is the last one's
        stride *= 2
    kept = steps[::stride]
    return kept if kept[-1] == steps[-1] else [*kept, steps[-1]]


def thumbnail(picture: Image.Image, *, step: int, max_bytes: int) -> Frame:
    """A picture as a data URL, as large and as good as `max_bytes` allow before it is written in base64."""
    scale = min(1.0, WIDTH_PX / picture.width, HEIGHT_PX / picture.height)
    while True:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        small = picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
        for quality in QUALITIES:
            data = _encoded(small, quality)
            if len(data) <= max_bytes or (max(size) <= LEAST_PX and quality == QUALITIES[-1]):
                text = base64.b64encode(data).decode("ascii")
                return Frame(step, f"data:image/{FORMAT};base64,{text}", *size)
        scale *= SHRINK


def _encoded(picture: Image.Image, quality: int) -> bytes:
    buffer = BytesIO()
    picture.convert("RGB").save(buffer, format=FORMAT.upper(), quality=quality)
    return buffer.getvalue()
