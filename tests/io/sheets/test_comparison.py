"""Sheets can be looked at: of a bounded size, with labels that can be read, whatever the pictures' size."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFont

from piflow_cli.io.pictures import png_bytes
from piflow_cli.io.sheets.comparison import FONT_PX, MARGIN_PX, MAX_PIXELS, Row, _lines, comparison_sheet


def pictures(count: int, size: tuple[int, int]) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (200, 120), (1024, 1024), (1360, 768), (4096, 512)])
@pytest.mark.parametrize("count", [1, 9, 40])
def test_a_sheet_is_small_enough_to_be_looked_at(size: tuple[int, int], count: int) -> None:
    made = pictures(1, size) * count
    sheet = comparison_sheet(["a cat"] * count, [Row(("teacher",), made), Row(("student", "4 NFE"), made)])
    assert sheet.width <= MARGIN_PX + 8 * 260
    assert sheet.width * sheet.height < 1.4 * MAX_PIXELS
    assert sheet.getcolors(1 << 24) is not None
    assert len(png_bytes(sheet)) < 3 * 1.4 * MAX_PIXELS


def test_small_pictures_are_enlarged_without_smoothing() -> None:
    made = pictures(2, (8, 8))
    sheet = comparison_sheet(["3", "7"], [Row(("teacher",), made)])
    cell = sheet.crop((sheet.width - 132, sheet.height - 136, sheet.width - 4, sheet.height - 8))
    assert cell.size == (128, 128)
    assert cell.getpixel((5, 5)) == cell.getpixel((0, 0)) == made[1].getpixel((0, 0))


def test_long_labels_are_broken_between_words_and_end_in_dots() -> None:
    font = ImageFont.load_default(size=FONT_PX)
    lines = _lines("a very long prompt about a red heart in front of a house", font, 130, 2)
    assert len(lines) == 2
    assert lines[0].startswith("a very long")
    assert lines[1].endswith("...")
    assert all(font.getlength(line) <= 130 for line in lines)
    assert _lines("a cat", font, 130, 2) == ["a cat"]
    assert all(font.getlength(line) <= 130 for line in _lines("x" * 400, font, 130, 2))
    assert _lines("", font, 130, 2) == []


def test_a_sheet_says_of_itself_what_it_shows() -> None:
    sheet = comparison_sheet(["一只猫\u0007 a\ncat"], [Row(("teacher",), pictures(1, (16, 16)))])
    content = png_bytes(sheet, {"prompts": "一只猫", "seeds": "1", "step": "7"})
    assert Image.open(BytesIO(content)).text == {"prompts": "一只猫", "seeds": "1", "step": "7"}
