"""Videos are files that play: all frames, at their rate, with what they are of; and strips of stills in their place."""

import json
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from piflow_cli.errors import MissingExtraError
from piflow_cli.io.pictures import png_bytes
from piflow_cli.io.sheets.videos import (
    DESCRIPTION,
    Video,
    require_writer,
    said_in,
    stills,
    strip_frames,
    strip_size,
    to_videos,
    usual_suffix,
    video_bytes,
)

FACTS = {"prompt": "a cät", "seed": "3"}
NEEDS_AV = pytest.mark.skipif(find_spec("av") is None, reason="needs av")


def rolling(frames: int) -> torch.Tensor:
    """A bright bar that moves to the right, (1, 3, F, 32, 48)."""
    video = torch.full((1, 3, frames, 32, 48), 0.2)
    for frame in range(frames):
        video[:, 0, frame, :, 8 * frame : 8 * frame + 8] = 0.9
    return video


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (2, [0, 1]), (5, [0, 1, 3, 4]), (81, [0, 27, 53, 80])])
def test_strips_show_the_first_frame_the_last_and_some_between(count: int, chosen: list[int]) -> None:
    assert strip_frames(count) == chosen
    assert strip_size((48, 32), count) == (48 * len(chosen), 32)


def test_a_strip_is_made_of_frames_beside_each_other() -> None:
    video = rolling(5)
    strip = stills(video)
    assert strip.shape == (1, 3, 32, 4 * 48)
    assert torch.equal(strip[..., 2 * 48 : 3 * 48], video[:, :, 3])
    picture = video[:, :, 0]
    assert stills(picture) is picture
    assert to_videos(picture, fps=16) == [None]


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_pillow_writes_all_frames_at_their_rate_and_what_they_are_of(suffix: str) -> None:
    (video,) = to_videos(rolling(5), fps=10)
    assert video is not None
    with Image.open(BytesIO(video_bytes(video, suffix, FACTS))) as file:
        assert (file.n_frames, file.size, file.info["loop"]) == (5, (48, 32), 0)
        said = file.info["comment"].decode() if suffix == ".gif" else file.getexif()[DESCRIPTION]
        durations, bars = [], []
        for frame in range(5):
            file.seek(frame)
            red = np.asarray(file.convert("RGB"))[16, :, 0]
            durations.append(file.info["duration"])
            bars.append(int(np.argmax(red > 150)))
    assert json.loads(said) == FACTS
    assert durations == [100] * 5
    assert bars == [0, 8, 16, 24, 32]


@NEEDS_AV
def test_an_mp4_plays_all_frames_at_their_rate_and_says_what_they_are_of() -> None:
    import av

    (video,) = to_videos(rolling(5), fps=24)
    assert video is not None
    with av.open(BytesIO(video_bytes(video, ".mp4", FACTS))) as file:
        stream = file.streams.video[0]
        assert (stream.average_rate, stream.width, stream.height) == (24, 48, 32)
        assert json.loads(file.metadata["comment"]) == FACTS
        frames = [frame.to_ndarray(format="rgb24")[16, :, 0] for frame in file.decode(stream)]
    assert [int(np.argmax(red > 150)) for red in frames] == [0, 8, 16, 24, 32]


def test_what_cannot_be_written_here_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piflow_cli.io.sheets.videos.find_spec", lambda _name: None)
    assert usual_suffix() == ".webp"
    with pytest.raises(MissingExtraError, match=r"\.mp4 needs av: pip install 'piflow\[video\]', or name a \.webp or"):
        require_writer(".mp4")
    require_writer(".gif")
    with pytest.raises(MissingExtraError):
        video_bytes(Video((Image.new("RGB", (2, 2)),), fps=16), ".mp4")


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png", pytest.param(".mp4", marks=NEEDS_AV)])
def test_files_are_asked_what_they_are_of(tmp_path: Path, suffix: str) -> None:
    (video,) = to_videos(rolling(5), fps=16)
    assert video is not None
    path = tmp_path / f"one{suffix}"
    path.write_bytes(png_bytes(video.frames[0], FACTS) if suffix == ".png" else video_bytes(video, suffix, FACTS))
    assert said_in(path) == FACTS


def test_files_of_others_say_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "one.webp")
    assert said_in(tmp_path / "one.webp") == {}
    (tmp_path / "two.gif").write_bytes(b"no picture")
    with pytest.raises(OSError, match="cannot identify"):
        said_in(tmp_path / "two.gif")
