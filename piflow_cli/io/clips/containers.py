"""MP4, MOV, WebM and Matroska by PyAV (extra `video`), a frame in memory at a time. The only place that decodes them.

Shapes: F frames, H, W size in pixels, C channels.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from piflow_cli.errors import MissingExtraError
from piflow_cli.io.clips.frames import Clip, check_count, check_frame, chosen_frames
from piflow_cli.io.images import PictureError, cover

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
"""What MP4 and MOV files begin with, behind four bytes of its length."""
EBML = b"\x1a\x45\xdf\xa3"
"""What WebM and Matroska begin with."""
INSTALL = "pip install 'piflow[video]'"


def demuxer_of(content: bytes) -> str | None:
    """FFmpeg's name for what reads a file; None of another kind, so that no playlist opens other files."""
    if content[4:8] in BOXES:
        return "mov"
    return "matroska" if content[:4] == EBML else None


def require_reader(name: object) -> None:
    """Raise MissingExtraError, which names the file, where PyAV is not installed."""
    if find_spec("av") is None:
        raise MissingExtraError(f"reading {name} needs av: {INSTALL}, or convert it to an animated .webp or .gif")


def read_container(content: bytes, clip: Clip) -> np.ndarray:
    """Frames (F, H, W, C) uint8 of the stream of pictures that players show, turned upright, the middle of each.

    Raises:
        PictureError: it is damaged, cut short, without pictures, too large or too short.
        MissingExtraError: PyAV is not installed.
    """
    require_reader("a video")
    from av import FFmpegError

    try:
        return _read(content, clip)
    except FFmpegError as error:
        raise PictureError(f"it is damaged or cut short: {error.strerror}") from None


def _read(content: bytes, clip: Clip) -> np.ndarray:
    times, second = _times(content)
    chosen = [times[number] for number in chosen_frames([time * second for time in times], clip)]
    wanted = frozenset(chosen)
    taken = _taken(content, wanted, clip, start=chosen[0])
    if taken.keys() != wanted:  # its index may be wrong
        taken |= _taken(content, wanted, clip, start=None)
    if missing := wanted - taken.keys():
        raise PictureError(f"{len(missing)} of the {len(wanted)} frames that are wanted do not decode: it is damaged")
    return np.stack([taken[time] for time in chosen])


def _open(content: bytes) -> "InputContainer":
    import av

    return av.open(BytesIO(content), format=demuxer_of(content), metadata_errors="ignore")


def _times(content: bytes) -> tuple[list[int], float]:
    """When frames begin, ascending, in units of the stream, and a unit in seconds; nothing is decoded."""
    with _open(content) as file:
        stream = file.streams.best("video")  # and no picture of a cover
        if stream is None:
            raise PictureError("it has sound and no pictures")
        check_frame(stream.codec_context.width, stream.codec_context.height)
        times, count = set(), 0
        for packet in file.demux(stream):
            if packet.size == 0:  # the end
                continue
            count += 1
            check_count(count)
            if packet.is_corrupt:
                raise PictureError(f"it is damaged or cut short: frame {count} is not whole")
            if packet.pts is not None and not packet.is_discard:
                times.add(packet.pts)
        if count < stream.frames:
            raise PictureError(f"it is cut short: {count} of {stream.frames} frames are there")
        return sorted(times), float(stream.time_base)


def _taken(content: bytes, wanted: frozenset[int], clip: Clip, *, start: int | None) -> dict[int, np.ndarray]:
    """The wanted frames (H, W, C) that decode, by their moments.

    Args:
        start: decode from the last key frame before it; None from the beginning.
    """
    taken: dict[int, np.ndarray] = {}
    with _open(content) as file:
        for frame in _frames(file, start):
            if frame.pts in wanted and not frame.is_corrupt:
                check_frame(frame.width, frame.height)
                picture = cover(_upright(frame), size_px=clip.size_px, channels=clip.channels)
                taken[frame.pts] = np.asarray(picture).reshape(clip.size_px[1], clip.size_px[0], clip.channels)
                if len(taken) == len(wanted):
                    break
    return taken


def _frames(file: "InputContainer", start: int | None) -> Iterator["VideoFrame"]:
    stream = file.streams.best("video")
    if start is not None:
        file.seek(start, stream=stream)
    return file.decode(stream)


def _upright(frame: "VideoFrame") -> Image.Image:
    """A frame in RGB, turned as the file says."""
    picture = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
