"""Which frames of a video are taken: written from the moments at which they are shown."""

import pytest

from piflow_cli.io.bounds import MAX_FRAME_PIXELS, MAX_FRAMES
from piflow_cli.io.clips.frames import Clip, check_count, check_frame, chosen_frames
from piflow_cli.io.images import PictureError


def clip(frames: int, fps: float) -> Clip:
    return Clip(frames, fps, (48, 64), 3)


def even(count: int, fps: float) -> list[float]:
    return [n / fps for n in range(count)]


@pytest.mark.parametrize("rounding", [1000, 90000, 1e9])
def test_a_video_of_the_wanted_rate_gives_each_frame_once(rounding: float) -> None:
    for count in (81, 82, 100, 1001):
        times = [round(t * rounding) / rounding for t in even(count, 16)]
        first = (count - 81) // 2
        assert chosen_frames(times, clip(81, 16)) == list(range(first, first + 81))


def test_of_a_faster_one_every_nth_and_of_a_slower_one_some_twice() -> None:
    assert chosen_frames(even(13, 48), clip(5, 16)) == [0, 3, 6, 9, 12]
    assert chosen_frames(even(5, 8), clip(9, 16)) == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    shown = chosen_frames(even(151, 30), clip(81, 16))
    assert shown[0] == 0
    assert shown[-1] == 150
    assert len(set(shown)) == 81
    late = [t + 7.5 for t in even(13, 48)]
    assert chosen_frames(late, clip(5, 16)) == [0, 3, 6, 9, 12]


def test_of_uneven_ones_what_is_shown_at_the_moment() -> None:
    assert chosen_frames([0, 0.1, 0.11, 0.12, 0.5, 1.0], clip(5, 4)) == [0, 3, 4, 4, 5]


def test_one_that_is_a_little_short_is_taken_whole() -> None:
    gif = [0.06 * n for n in range(81)]  # 81 frames at 16 a second, in hundredths
    assert chosen_frames(gif, clip(81, 16)) == list(range(81))
    with pytest.raises(PictureError, match=r"too short: it has 76 frames in 4\.69 s, and 81 at 16 a second, 5\.00 s"):
        chosen_frames(even(76, 16), clip(81, 16))


def test_what_is_no_video_or_hardly_one() -> None:
    with pytest.raises(PictureError, match="it has no frames, and 5 at 16 a second"):
        chosen_frames([], clip(5, 16))
    with pytest.raises(PictureError, match="it has one frame: it is a picture, and 5 at 16 a second"):
        chosen_frames([0.0], clip(5, 16))
    with pytest.raises(PictureError, match=r"too few frames a second: 11 different ones in the 5\.00 s of its middle"):
        chosen_frames(even(11, 2), clip(81, 16))
    with pytest.raises(PictureError, match="too short"):
        chosen_frames([1.0, 1.0], clip(5, 16))


def test_bounds() -> None:
    check_frame(7680, 4320)
    with pytest.raises(PictureError, match="its frames have 8192 x 8192 pixels"):
        check_frame(8192, 2 * MAX_FRAME_PIXELS // 8192)
    check_count(MAX_FRAMES)
    with pytest.raises(PictureError, match="Cut it into clips"):
        check_count(MAX_FRAMES + 1)
