"""Pictures decode from every usual format to the size that is asked for, or are an error."""

import io

import numpy as np
import pytest
import torch
from captioned_sets import picture
from PIL import Image

from piflow_cli.data.files.pictures import decode_picture


def test_a_picture_is_scaled_to_cover_and_cropped_at_its_centre() -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = 255  # the centre third
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    centre = decode_picture(file.getvalue(), size_px=(10, 10), channels=3)
    assert centre.shape == (3, 10, 10)
    assert (centre == 1).all()
    whole = decode_picture(file.getvalue(), size_px=(30, 10), channels=1)
    assert whole.shape == (1, 10, 30)
    assert whole[0, 5].tolist() == [0.0] * 10 + [1.0] * 10 + [0.0] * 10


@pytest.mark.parametrize("size_px", [(8, 4), (4, 8), (30, 7), (7, 30), (1, 1)])
def test_any_size_comes_out_exactly(size_px: tuple[int, int]) -> None:
    picture_of = decode_picture(picture(3, size=(13, 9)), size_px=size_px, channels=3)
    assert picture_of.shape == (3, size_px[1], size_px[0])
    torch.testing.assert_close(picture_of, torch.full_like(picture_of, 120 / 255))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_usual_formats_decode(kind: str) -> None:
    assert decode_picture(picture(2, kind=kind), size_px=(8, 8), channels=3).shape == (3, 8, 8)


@pytest.mark.parametrize(
    "content", [b"", b"no picture", picture(1)[:40], picture(1)[:-30], picture(1, kind="JPEG")[:100]]
)
def test_what_does_not_decode_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_picture(content, size_px=(8, 8), channels=3)
