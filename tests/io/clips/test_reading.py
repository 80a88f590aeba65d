"""People's videos become frames, and what is none is refused in a sentence."""

import struct
import tracemalloc
from io import BytesIO

import numpy as np
import pytest
from made_clips import NEEDS_AV, animation, container, greys, numbers, only_sound
from PIL import Image

from piflow_cli.errors import MissingExtraError
from piflow_cli.io.clips import animations, containers
from piflow_cli.io.clips.frames import Clip
from piflow_cli.io.clips.reading import decode_clip
from piflow_cli.io.images import PictureError

FIVE = Clip(5, 16, (24, 32), 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animations_give_the_frames_of_their_middle(kind: str) -> None:
    found = decode_clip(animation(greys(9), kind=kind), FIVE)
    assert found.shape == (5, 32, 24, 3)
    assert found.dtype == np.uint8
    assert numbers(found) == [2, 3, 4, 5, 6]
    grey = decode_clip(animation(greys(5), kind=kind), Clip(5, 16, (24, 32), 1))
    assert grey.shape == (5, 32, 24, 1)
    assert numbers(decode_clip(animation(greys(17), kind=kind, duration_ms=20), FIVE)) == [2, 5, 8, 11, 14]


@NEEDS_AV
@pytest.mark.parametrize("kind", ["mp4", "mov", "webm"])
def test_containers_give_the_frames_of_their_middle(kind: str) -> None:
    assert numbers(decode_clip(container(greys(9), kind=kind), FIVE)) == [2, 3, 4, 5, 6]
    fast = container(greys(13), kind=kind, fps=48)
    assert numbers(decode_clip(fast, FIVE)) == [0, 3, 6, 9, 12]


@NEEDS_AV
def test_sound_beside_pictures_is_passed_over() -> None:
    assert numbers(decode_clip(container(greys(5), sound=True), FIVE)) == [0, 1, 2, 3, 4]


def test_frames_are_read_as_pictures_are() -> None:
    """The middle of the proportions, and white behind what is transparent."""
    wide = [Image.new("RGB", (96, 32), "red") for _ in range(5)]
    for n, frame in enumerate(wide):
        frame.paste((0, 0, 40 + n), (36, 0, 60, 32))
    found = decode_clip(animation(wide, kind="WEBP"), FIVE)
    assert (found[2] == [0, 0, 42]).all()
    clear = [Image.new("RGBA", (24, 32), (n, 0, 0, 0)) for n in range(5)]
    assert (decode_clip(animation(clear, kind="WEBP"), FIVE) == 255).all()


@NEEDS_AV
def test_what_was_filmed_upright_stands_upright() -> None:
    """A quarter turn clockwise in the track's matrix, as phones write it: what was above is on the right."""
    frames = [Image.new("RGB", (64, 48), "black") for _ in range(5)]
    for frame in frames:
        frame.paste("white", (0, 0, 64, 24))
    content = bytearray(container(frames))
    place = content.index(b"tkhd") + 4 + 24 + 16
    content[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    found = decode_clip(bytes(content), Clip(5, 16, (48, 64), 3)).astype(float)
    assert found[:, :, 28:].mean() > 250
    assert found[:, :, :20].mean() < 5


def test_pictures_are_refused_as_such() -> None:
    for kind in ("PNG", "JPEG"):
        buffer = BytesIO()
        greys(1)[0].save(buffer, kind)
        with pytest.raises(PictureError, match=rf"it is a picture \({kind}\), and the teacher draws videos"):
            decode_clip(buffer.getvalue(), FIVE)
    for kind in ("GIF", "WEBP"):
        with pytest.raises(PictureError, match="it has one frame: it is a picture, and 5 at 16 a second"):
            decode_clip(animation(greys(1), kind=kind), FIVE)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_damaged_animations_are_refused(kind: str) -> None:
    draw = np.random.default_rng(0)
    content = animation([Image.fromarray(draw.integers(0, 255, (64, 48, 3), np.uint8)) for _ in range(9)], kind=kind)
    for length in (0, 3, 12, 40, len(content) // 3, len(content) - 2):
        with pytest.raises(PictureError):
            decode_clip(content[:length], FIVE)


@NEEDS_AV
@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_damaged_containers_are_refused(kind: str) -> None:
    draw = np.random.default_rng(0)
    content = container([Image.fromarray(draw.integers(0, 255, (64, 48, 3), np.uint8)) for _ in range(9)], kind=kind)
    for length in (8, 12, 40, len(content) // 3, len(content) // 2):
        with pytest.raises(PictureError):
            decode_clip(content[:length], FIVE)
    with pytest.raises(PictureError, match="it has sound and no pictures"):
        decode_clip(only_sound(), FIVE)


def test_lists_that_would_open_other_files_are_no_videos() -> None:
    for content in (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"):
        with pytest.raises(PictureError, match="no video of a known kind"):
            decode_clip(content, FIVE)


def test_an_empty_file_is_said_to_be_empty() -> None:
    with pytest.raises(PictureError, match="it is empty"):
        decode_clip(b"", FIVE)


def test_without_pyav_containers_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"needs av: pip install 'piflow\[video\]', or convert it"):
        decode_clip(b"\0\0\0\x20ftypisom", FIVE)
    assert numbers(decode_clip(animation(greys(5)), FIVE)) == [0, 1, 2, 3, 4]


def test_large_animations_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = animation(greys(5))
    large = content[:6] + struct.pack("<HH", 40000, 40000) + content[10:]
    with pytest.raises(PictureError, match=r"its frames have 40000 x 40000 pixels|more pixels than are read"):
        decode_clip(large, FIVE)
    monkeypatch.setattr(animations, "MAX_ANIMATION_PIXELS", 5 * 48 * 64)
    decode_clip(content, FIVE)
    with pytest.raises(PictureError, match="it has 6 frames of 48 x 64 pixels; up to 15,360 in all are read"):
        decode_clip(animation(greys(6)), FIVE)


@NEEDS_AV
def test_a_long_video_takes_no_more_memory_than_a_short_one() -> None:
    """Of what Python and numpy hold: a frame of 480 x 640 is 0.9 MB, and 25 of them would be 23 MB."""
    content = container(greys(25, size=(480, 640)))
    decode_clip(content, FIVE)
    tracemalloc.start()
    decode_clip(content, FIVE)
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()
