"""People's pictures, read in one way for training and measuring: 8 bits a channel, upright, in sRGB, on white.

Shapes: C channels (1 or 3), H, W size in pixels.
"""

import functools
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, features
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.io.bounds import LARGE_PICTURE_PIXELS, MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS
from piflow_cli.io.regular import read_regular

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF") + (("AVIF",) if features.check("avif") else ())
"""What a file may hold, whatever its name says: decoders that start other programs are never among them."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
"""What names of picture files end in, in lower case."""
PROFILE_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}
"""Colour spaces of ICC profiles, and the mode of the pictures that they describe."""
_LARGE = threading.Lock()
PNG_BIT_DEPTH = 24
"""Where a PNG file says its bits a channel."""


class PictureError(DataError, ValueError):
    """A picture that cannot be used: damaged, of another format, too large, or without a known range of values."""


def read_picture(path: Path) -> Image.Image:
    """A picture file, as `decode` gives it.

    Raises:
        PictureError: it cannot be read or used; the message names the file.
    """
    try:
        return decode(read_regular(path, max_bytes=MAX_PICTURE_BYTES))
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror or error}") from None
    except PictureError as error:
        raise PictureError(f"{path} does not decode as a picture: {error}") from None
    except DataError as error:  # which has named it
        raise PictureError(str(error)) from None


def decode(content: bytes) -> Image.Image:
    """The first frame of an encoded picture in mode L or RGB: turned as its EXIF says, in sRGB, on white.

    16 bits a channel are scaled to 8, so that 65535 is white. What is transparent shows the white behind it. An
    embedded ICC profile is applied where it describes the picture's channels, and left alone where it does not.

    Raises:
        PictureError: it is none of `FORMATS`, is damaged or larger than `MAX_PICTURE_PIXELS`, or its pixels are 32-bit
            integers or floats, of which none is known to be white.
    """
    with _opened(content) as image:
        return plain(ImageOps.exif_transpose(image), bits=_bits(image, content))


def decode_to(content: bytes, *, size_px: tuple[int, int], channels: int) -> Image.Image:
    """The middle of an encoded picture at a size, as `decode` and `cover` give it, keeping none of the rest.

    Raises:
        PictureError: as `decode`.
    """
    with _opened(content) as image:
        picture = plain(ImageOps.exif_transpose(image), bits=_bits(image, content))
        return cover(picture, size_px=size_px, channels=channels)


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """A picture with its pixels; of large ones there is one at a time, whatever the number of threads."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            num_pixels = image.width * image.height
            if num_pixels > MAX_PICTURE_PIXELS:
                raise PictureError(
                    f"it has {image.width} x {image.height} pixels; up to {MAX_PICTURE_PIXELS} are read. Scale it down"
                )
            with _LARGE if num_pixels > LARGE_PICTURE_PIXELS else nullcontext():
                image.load()
                yield image
    except PictureError:
        raise
    except Image.UnidentifiedImageError:
        raise PictureError(f"it is none of {', '.join(FORMATS)}, or its head is damaged") from None
    except Image.DecompressionBombError:
        raise PictureError(f"it has more than the {MAX_PICTURE_PIXELS} pixels that are read. Scale it down") from None
    except Exception as error:  # decoders raise errors of many classes
        raise PictureError(str(error) or type(error).__name__) from None


def cover(picture: Image.Image, *, size_px: tuple[int, int], channels: int) -> Image.Image:
    """The middle of a picture at a size, of mode L or RGB: as much as has the size's proportions, scaled to it.

    What lies beyond is cut off before anything is scaled, so that no side can grow without bound.

    Args:
        picture: of mode L or RGB.
        size_px: width and height.
        channels: 1 makes it grey, 3 coloured.
    """
    width, height = size_px
    scale = max(width / picture.width, height / picture.height)
    seen_w, seen_h = min(picture.width, width / scale), min(picture.height, height / scale)
    left, top = (picture.width - seen_w) / 2, (picture.height - seen_h) / 2
    kernel = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    picture = picture.convert("L" if channels == 1 else "RGB")
    return picture.resize(size_px, kernel, box=(left, top, left + seen_w, top + seen_h))


def to_tensor(picture: Image.Image) -> Tensor:
    """A picture of mode L or RGB as (1 or 3, H, W) float32 in [0, 1]."""
    pixels = np.array(picture)
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1).float() / 255


def _bits(image: Image.Image, content: bytes) -> int:
    """Bits a channel of a file; 8 where more than that cannot be."""
    if image.format == "PNG":
        return content[PNG_BIT_DEPTH]
    if image.format == "TIFF":
        return max(np.atleast_1d(image.tag_v2.get(258, 1)))  # BitsPerSample
    return 8


def plain(image: Image.Image, *, bits: int) -> Image.Image:
    """Mode L or RGB of a decoded picture, in sRGB and on white.

    Args:
        bits: a channel.

    Raises:
        PictureError: its pixels are 32-bit integers or floats.
    """
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        image = _from_sixteen(image, bits=bits)
    elif image.mode in ("I", "F"):
        kind = "integers beyond 16 bits or with a sign" if image.mode == "I" else "floating-point numbers"
        raise PictureError(f"its pixels are {kind}, of which none is known to be white. Convert it to 8 or 16 bits")
    image, alpha = _without_alpha(image, bits=bits)
    image = _in_srgb(image, profile)
    if alpha is not None:
        white = Image.new(image.mode, image.size, "white")
        image = Image.composite(image, white, alpha)
    return image


def _from_sixteen(image: Image.Image, *, bits: int) -> Image.Image:
    """8-bit grey of 16-bit grey (12-bit in some TIFF files), with alpha where one value is transparent."""
    pixels = np.asarray(image).astype(np.uint32)
    white = 2**bits - 1
    grey = Image.fromarray(((pixels * 255 + white // 2) // white).clip(max=255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(pixels == transparent, 0, 255).astype(np.uint8)))
    return grey


def _without_alpha(image: Image.Image, *, bits: int) -> tuple[Image.Image, Image.Image | None]:
    """A picture of mode L, RGB, CMYK or LAB, and its alpha where it has some."""
    transparent = image.info.get("transparency")
    if transparent is not None and image.mode in ("L", "RGB"):  # a colour of the file's own depth
        if bits == 16 and image.mode == "RGB":
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
        elif bits < 8 and image.mode == "L":
            image.info["transparency"] = transparent * 255 // (2**bits - 1)
    if image.mode in ("LA", "La"):
        image = image.convert("LA")
        return image.getchannel("L"), image.getchannel("A")
    if transparent is not None or image.mode in ("RGBA", "RGBa", "PA"):
        grey, image = image.mode in ("1", "L"), image.convert("RGBA")
        return image.convert("RGB").convert("L" if grey else "RGB"), image.getchannel("A")
    if image.mode in PROFILE_SPACES.values():
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Mode L or RGB in sRGB of a picture of mode L, RGB, CMYK or LAB."""
    source = _applicable(profile, image.mode) if profile and _has_cms() else None
    if source is None and image.mode == "LAB":
        source = ImageCms.createProfile("LAB")
    if source is None:
        return image if image.mode == "L" else image.convert("RGB")
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return converted.convert("L") if image.mode == "L" else converted


def _applicable(profile: bytes, mode: str) -> ImageCms.ImageCmsProfile | None:
    """A profile that changes colours of the mode; None, as viewers do, for one that is damaged or of other channels."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        name = ImageCms.getProfileDescription(source)
    except (ImageCms.PyCMSError, OSError):
        return None
    is_srgb = mode == "RGB" and "sRGB" in name
    return source if PROFILE_SPACES.get(source.profile.xcolor_space.strip()) == mode and not is_srgb else None


@functools.cache
def _has_cms() -> bool:
    """Whether colours can be converted; says once that they cannot."""
    if not features.check("littlecms2"):
        warnings.warn("this Pillow has no LittleCMS: ICC profiles in pictures are not applied", stacklevel=2)
        return False
    return True
