"""People's videos, read in one way: by what the file holds, not by its name.

Shapes: F frames, H, W size in pixels, C channels.
"""

import numpy as np
from PIL import Image

from piflow_cli.errors import DataError, MissingExtraError
from piflow_cli.io.clips.animations import read_animation
from piflow_cli.io.clips.containers import demuxer_of, read_container
from piflow_cli.io.clips.frames import Clip
from piflow_cli.io.images import PictureError

CONTAINER_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv"})
"""What PyAV reads."""
CLIP_SUFFIXES = CONTAINER_SUFFIXES | {".webp", ".gif"}
"""What names of video files end in, in lower case."""


def decode_clip(content: bytes, clip: Clip) -> np.ndarray:
    """Frames (F, H, W, C) uint8 of an encoded video: those that `chosen_frames` names, the middle of each.

    One frame is in memory beside those that are kept, at their small size.

    Raises:
        PictureError: it is none of the kinds, a picture, damaged, too large or too short.
        MissingExtraError: it takes PyAV, which is not installed.
    """
    if not content:
        raise PictureError("it is empty")
    try:
        return read_container(content, clip) if demuxer_of(content) else read_animation(content, clip)
    except (DataError, MissingExtraError):
        raise
    except Image.UnidentifiedImageError:
        known = ", ".join(sorted(CLIP_SUFFIXES))
        raise PictureError(f"it is no video of a known kind ({known}), or its head is damaged") from None
    except Image.DecompressionBombError:
        raise PictureError("its frames have more pixels than are read. Scale it down") from None
    except Exception as error:  # decoders raise errors of many classes
        raise PictureError(f"it is damaged or cut short: {str(error) or type(error).__name__}") from None
