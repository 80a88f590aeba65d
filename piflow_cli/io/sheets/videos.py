"""Videos: files of moving pictures, and the strips of stills that stand for them where pictures are shown.

Shapes: N videos, F frames, H, W size in pixels.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from piflow_cli.errors import MissingExtraError, StorageError
from piflow_cli.io.pictures import to_pictures

STRIP_FRAMES = 4
"""Stills of a strip at most: the first frame, the last one, and others between them, evenly spread."""
MP4 = ".mp4"
VIDEO_SUFFIXES = (MP4, ".webp", ".gif")
QUALITY = {MP4: 18, ".webp": 90}
"""Constant rate factor of H.264, where less is better, and quality of WebP, where more is."""
DESCRIPTION = 0x010E
"""The EXIF tag that holds what a WebP says of itself."""


@dataclass(frozen=True)
class Video:
    """Moving pictures.

    Args:
        frames: of one size.
        fps: frames a second.
    """

    frames: tuple[Image.Image, ...]
    fps: int


def stills(decoded: Tensor) -> Tensor:
    """Videos (N, 3, F, H, W) as strips (N, 3, H, stills x W); pictures (N, C, H, W) as they are."""
    if decoded.ndim == 4:
        return decoded
    chosen = [decoded[:, :, frame] for frame in strip_frames(decoded.shape[2])]
    return torch.cat(chosen, dim=-1)


def strip_frames(count: int) -> list[int]:
    """Which of `count` frames a strip shows."""
    number = min(STRIP_FRAMES, count)
    return [round(i * (count - 1) / max(1, number - 1)) for i in range(number)]


def strip_size(size_px: tuple[int, int], frames: int) -> tuple[int, int]:
    """Width and height of a strip of videos of some size; of one frame, of the picture."""
    return size_px[0] * len(strip_frames(frames)), size_px[1]


def to_videos(decoded: Tensor, *, fps: int) -> list[Video | None]:
    """Videos of (N, 3, F, H, W) in [0, 1]; None for each of the pictures of (N, C, H, W)."""
    if decoded.ndim == 4:
        return [None] * len(decoded)
    return [Video(tuple(to_pictures(video.transpose(0, 1))), fps) for video in decoded]


def usual_suffix() -> str:
    """Of videos in a folder: MP4 where PyAV is installed, else animated WebP."""
    return MP4 if find_spec("av") is not None else VIDEO_SUFFIXES[1]


def require_writer(suffix: str) -> None:
    """Raise MissingExtraError where a kind of video cannot be written here."""
    if suffix == MP4 and find_spec("av") is None:
        others = " or ".join(VIDEO_SUFFIXES[1:])
        raise MissingExtraError(f"{MP4} needs av: pip install 'piflow[video]', or name a {others} file")


def video_bytes(video: Video, suffix: str, facts: dict[str, str] | None = None) -> bytes:
    """A video as a file, with what it says of itself as JSON in its comment (MP4, GIF) or its description (WebP).

    Args:
        video: what to write.
        suffix: one of `VIDEO_SUFFIXES`.
        facts: what it says.

    Raises:
        MissingExtraError: as `require_writer`.
        StorageError: a size that the format has not.
    """
    require_writer(suffix)
    said = json.dumps(facts or {}, ensure_ascii=suffix == ".webp")  # EXIF holds nothing else
    if suffix == MP4:
        return _mp4(video, said)
    options: dict[str, Any] = {"comment": said.encode()}
    if suffix == ".webp":
        exif = Image.Exif()
        exif[DESCRIPTION] = said
        options = {"exif": exif, "quality": QUALITY[suffix]}
    first, *others = video.frames
    buffer = BytesIO()
    first.save(
        buffer,
        format=suffix[1:].upper(),
        save_all=True,
        append_images=others,
        duration=1000 / video.fps if suffix == ".webp" else round(100 / video.fps) * 10,  # GIF counts hundredths
        loop=0,
        **options,
    )
    return buffer.getvalue()


def said_in(path: Path) -> dict[str, str]:
    """What the file of a picture or of a video says of itself; nothing of one that is not of here.

    Raises:
        OSError, ValueError: it is no picture, or damaged.
    """
    if path.suffix.lower() == MP4:
        return _said_in_mp4(path)
    with Image.open(path) as file:
        if file.format == "PNG":
            return dict(file.text)
        said = file.info.get("comment") or file.getexif().get(DESCRIPTION)
    return json.loads(said) if said else {}


def _said_in_mp4(path: Path) -> dict[str, str]:
    if find_spec("av") is None:
        return {}
    import av

    with av.open(path) as file:
        said = file.metadata.get("comment")
    return json.loads(said) if said else {}


def _mp4(video: Video, said: str) -> bytes:
    """H.264, as every player reads it."""
    import av

    width, height = video.frames[0].size
    if width % 2 or height % 2:
        raise StorageError(f"{MP4} has no odd sides, and the video has {width}x{height}; name a .webp or .gif file")
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        file.metadata["comment"] = said
        stream = file.add_stream("libx264", rate=video.fps, options={"crf": str(QUALITY[MP4])})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in video.frames:
            file.mux(stream.encode(av.VideoFrame.from_image(frame)))
        file.mux(stream.encode())
    return buffer.getvalue()
