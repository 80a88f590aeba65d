"""A picture has one meaning, however its file holds it: the right value, upright, in sRGB, on white, or an error."""

import io
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from piflow_cli.errors import DataError
from piflow_cli.io import images
from piflow_cli.io.bounds import MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS
from piflow_cli.io.images import PictureError, cover, decode, decode_to, read_picture, to_tensor


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], bits: int, colour: int, pixels: bytes, *chunks: bytes) -> bytes:
    """A PNG of one row of pixels as they are stored."""
    head = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    body = (chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(b"\0" + pixels)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(content: bytes) -> list:
    return np.asarray(decode(content)).tolist()


GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
WORDS = struct.Struct(">HHHH")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (png((3, 1), 16, GREY, struct.pack(">HHH", 0, 32768, 65535)), [[0, 128, 255]]),
        (png((1, 1), 16, RGB, struct.pack(">HHH", 0, 32896, 65535)), [[[0, 128, 255]]]),
        (encoded(Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)), "TIFF"), [[0, 128, 255]]),
        (png((8, 1), 1, GREY, bytes([0b01010000])), [[0, 255, 0, 255, 0, 0, 0, 0]]),
        (png((4, 1), 2, GREY, bytes([0b00011011])), [[0, 85, 170, 255]]),
        (encoded(Image.new("1", (2, 1), 1), "TIFF"), [[255, 255]]),
    ],
    ids=["16-bit grey", "16-bit colours", "16-bit TIFF", "1 bit", "2 bits", "1-bit TIFF"],
)
def test_every_depth_has_its_own_white(content: bytes, wanted: list) -> None:
    assert pixels_of(content) == wanted


def test_a_ramp_of_16_bits_keeps_its_mean() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    picture = to_tensor(cover(decode(encoded(Image.fromarray(ramp))), size_px=(64, 64), channels=3))
    expected = torch.from_numpy(ramp.astype(np.float32) / 65535)
    assert (picture - expected).abs().max() <= 0.5 / 255 + 1e-6


def palette(*alphas: int) -> bytes:
    colours = chunk(b"PLTE", bytes([0, 255, 0, 255, 0, 0, 0, 0, 255]))
    return png((3, 1), 8, PALETTE, bytes([0, 1, 2]), colours, chunk(b"tRNS", bytes(alphas)))


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (encoded(Image.new("RGBA", (1, 1), (0, 255, 0, 0))), [[[255, 255, 255]]]),
        (encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128))), [[[127, 127, 127]]]),
        (encoded(Image.new("RGBA", (1, 1), (10, 20, 30, 255))), [[[10, 20, 30]]]),
        (encoded(Image.new("LA", (1, 1), (0, 0))), [[255]]),
        (encoded(Image.new("RGBA", (1, 1), (0, 255, 0, 0)), "WEBP", lossless=True, exact=True), [[[255, 255, 255]]]),
        (encoded(Image.new("RGBA", (1, 1), (0, 255, 0, 0)), "TIFF"), [[[255, 255, 255]]]),
        (palette(0, 128), [[[255, 255, 255], [255, 127, 127], [0, 0, 255]]]),
        (png((2, 1), 8, RGB, bytes([1, 2, 3, 3, 2, 1]), chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))),
         [[[255, 255, 255], [3, 2, 1]]]),
        (png((2, 1), 8, GREY, bytes([7, 8]), chunk(b"tRNS", struct.pack(">H", 7))), [[255, 8]]),
        (png((4, 1), 2, GREY, bytes([0b00011011]), chunk(b"tRNS", struct.pack(">H", 1))), [[0, 255, 170, 255]]),
        (png((2, 1), 16, GREY, struct.pack(">HH", 1000, 0), chunk(b"tRNS", struct.pack(">H", 1000))), [[255, 0]]),
        (png((2, 1), 16, RGB, struct.pack(">6H", 1000, 2000, 3000, 0, 0, 65535),
             chunk(b"tRNS", struct.pack(">HHH", 1000, 2000, 3000))), [[[255, 255, 255], [0, 0, 255]]]),
        (png((1, 1), 16, RGB_ALPHA, WORDS.pack(0, 65535, 0, 0)), [[[255, 255, 255]]]),
    ],
    ids=["RGBA", "half", "opaque", "LA", "WebP", "TIFF", "palette", "colour key", "grey key", "2-bit key", "16-bit key",
         "16-bit colour key", "16-bit RGBA"],
)  # fmt: skip
def test_what_is_transparent_shows_white_and_never_its_hidden_colour(content: bytes, wanted: list) -> None:
    assert pixels_of(content) == wanted


def test_hidden_colours_do_not_bleed_when_scaled() -> None:
    disc = Image.new("RGBA", (8, 8), (0, 255, 0, 0))
    disc.paste((255, 0, 0, 255), (3, 3, 5, 5))
    small = to_tensor(cover(decode(encoded(disc)), size_px=(2, 2), channels=3))
    torch.testing.assert_close(small[:, 0, 0], torch.tensor([1, 15 / 16, 15 / 16]), atol=1 / 255, rtol=0)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_colours(kind: str) -> None:
    content = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), kind, quality=100)
    assert np.abs(np.asarray(decode(content)).astype(int) - [0, 255, 255]).max() <= 2


def test_palettes_become_colours() -> None:
    assert pixels_of(encoded(Image.new("RGB", (2, 1), (255, 0, 51)).quantize(4))) == [[[255, 0, 51]] * 2]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (255, 0, 128)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixels_of(content) == [[[255, 0, 0]] * 4] * 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photographs_are_turned_upright(kind: str) -> None:
    image = Image.new("RGB", (16, 32))
    image.paste((255, 255, 255), (0, 0, 8, 32))  # white on the left as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: white ends up above
    picture = decode(encoded(image, kind, exif=exif))
    assert picture.size == (32, 16)
    assert np.asarray(picture)[2].mean() > 250
    assert np.asarray(picture)[-3].mean() < 5


def swapped_profile() -> bytes:
    """A profile whose first channel is what sRGB calls blue, and its third red."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(data[i : i + 4]): i for i in range(132, 132 + 12 * struct.unpack(">I", data[128:132])[0], 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data).replace("sRGB".encode("utf-16-be"), "BGRs".encode("utf-16-be"))


def test_an_embedded_profile_is_applied() -> None:
    image = Image.new("RGB", (2, 2), (255, 0, 0))
    red, green, blue = pixels_of(encoded(image, icc_profile=swapped_profile()))[0][0]
    assert (red < 8, green < 8, blue > 247) == (True, True, True)
    assert pixels_of(encoded(image))[0][0] == [255, 0, 0]


def test_an_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(decode(encoded(image, icc_profile=profile))), np.asarray(image))


@pytest.mark.parametrize("profile", [b"no profile", swapped_profile()])
def test_a_damaged_profile_or_one_of_other_channels_is_left_alone(profile: bytes) -> None:
    assert pixels_of(encoded(Image.new("L", (1, 1), 77), icc_profile=profile)) == [[77]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(Image.new("F", (2, 2)), "TIFF"), "floating-point numbers, of which none is known to be white"),
        (encoded(Image.new("I", (2, 2)), "TIFF"), "integers beyond 16 bits"),
        (png((60000, 60000), 8, RGB, b""), "more than the 134217728 pixels that are read"),
        (png((16384, 8193), 8, GREY, b""), "16384 x 8193 pixels; up to 134217728 are read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "none of PNG, JPEG"),
        (encoded(Image.new("RGB", (2, 2)), "PDF"), "none of PNG, JPEG"),
        (encoded(Image.new("RGB", (2, 2)), "PPM"), "none of PNG, JPEG"),
        (b"", "none of PNG, JPEG"),
        (encoded(Image.effect_noise((40, 40), 50))[:-200], "."),
        (encoded(Image.effect_noise((40, 40), 50), "JPEG")[:-200], "truncated"),
        (png((4, 4), 8, GREY, b"\0"), "."),
    ],
    ids=["float", "32 bits", "bomb", "too large", "EPS", "PDF", "PPM", "empty", "cut PNG", "cut JPEG", "no pixels"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_used_is_both_a_data_error_and_a_value_error(content: bytes, message: str) -> None:
    with pytest.raises(PictureError, match=message) as caught:
        decode(content)
    assert isinstance(caught.value, DataError)
    assert isinstance(caught.value, ValueError)


def test_a_picture_of_the_largest_size_would_be_read() -> None:
    assert MAX_PICTURE_PIXELS > 11648 * 8736  # of a camera with 100 megapixels
    assert MAX_PICTURE_PIXELS * 3 < MAX_PICTURE_BYTES


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
@pytest.mark.parametrize("size_px", [(256, 256), (64, 1024)])
def test_no_side_grows_beyond_what_is_asked_for(size: tuple[int, int], size_px: tuple[int, int]) -> None:
    picture = to_tensor(cover(Image.new("RGB", size, (0, 51, 255)), size_px=size_px, channels=3))
    assert picture.shape == (3, size_px[1], size_px[0])
    torch.testing.assert_close(picture[:, 0, 0], torch.tensor([0, 0.2, 1]))


def test_a_thin_picture_takes_little_memory() -> None:
    code = (
        "import resource; from PIL import Image; from piflow_cli.io.images import cover\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "cover(Image.new('RGB', (1, 2000)), size_px=(1024, 1024), channels=3)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 64 * 1024, grown\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("size", "size_px"), [((60, 20), (10, 10)), ((20, 60), (10, 10)), ((60, 20), (10, 5))])
def test_the_middle_is_taken_in_the_proportions_asked_for(size: tuple[int, int], size_px: tuple[int, int]) -> None:
    """Every pixel is the mean of the square of pixels that it covers, rounded once along each side."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    scale = max(size_px[0] / size[0], size_px[1] / size[1])
    seen = round(size_px[0] / scale), round(size_px[1] / scale)
    left, top = (size[0] - seen[0]) // 2, (size[1] - seen[1]) // 2
    middle = pixels[top : top + seen[1], left : left + seen[0]].astype(float)
    step = seen[0] // size_px[0]
    wanted = middle.reshape(size_px[1], step, size_px[0], step).mean(axis=(1, 3))
    got = np.asarray(cover(Image.fromarray(pixels), size_px=size_px, channels=1)).astype(float)
    assert np.abs(got - wanted).max() <= 0.5 + 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_decoding_to_a_size_is_decoding_and_covering(channels: int) -> None:
    content = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 4), dtype=np.uint8)))
    whole = cover(decode(content), size_px=(8, 16), channels=channels)
    assert np.array_equal(np.asarray(decode_to(content, size_px=(8, 16), channels=channels)), np.asarray(whole))


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads with pictures above the bound are never within one together."""
    monkeypatch.setattr(images, "LARGE_PICTURE_PIXELS", 100)
    content, inside, most = encoded(Image.new("RGB", (20, 20))), [], []

    def slow(picture: Image.Image, **_: object) -> Image.Image:
        inside.append(picture)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return picture

    monkeypatch.setattr(images, "plain", slow)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [content] * 16))
    assert most == [1] * 16


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def an_endless_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_PICTURE_BYTES + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (a_pipe, "a.png is no regular file but a pipe"),
        (a_device, "a.png is no regular file but a device"),
        (Path.mkdir, "a.png is no regular file but a folder"),
        (an_endless_file, r"a.png has \d+ MB; up to 512 MB are read"),
        (lambda path: path.write_bytes(b"%!PS"), "a.png does not decode as a picture: it is none of PNG"),
        (lambda _path: None, "a.png cannot be read: No such file"),
    ],
)
def test_files_that_are_no_pictures_are_refused_by_name(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(PictureError, match=message):
        read_picture(tmp_path / "a.png")


def test_ghostscript_is_never_started(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ntouch {tmp_path / "started"}\n[ "$1" = --version ] && echo 10.0\nexit 1\n')
    program.chmod(0o755)
    eps = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "a.png").write_text(eps)
    code = (
        "from pathlib import Path; from piflow_cli.io.images import PictureError, read_picture\n"
        f"try: read_picture(Path({str(tmp_path / 'a.png')!r}))\n"
        "except PictureError: raise SystemExit(7)\n"
    )
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    process = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert process.returncode == 7
    assert not (tmp_path / "started").exists()
