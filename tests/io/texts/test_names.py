"""Names of files and labels of pictures, of any text whatever."""

import os
from pathlib import Path

import pytest
from PIL import Image

from piflow_cli.io.pictures import grid_picture
from piflow_cli.io.texts.names import STEM_BYTES, file_stem, label_of

TEXTS = {
    "plain": "a red cat",
    "line breaks": "a cat\nin a\r\nhat\u2028now",
    "emoji": "a \U0001f431 cat \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "right to left": "\u202eقطة\u202c חתול",
    "marks": "बिल्ली",
    "long": "word " * 2000,
    "long letters of four bytes": "\U00020000" * 10_000,
    "NUL": "a\0b",
    "surrogate": "caf\udce9 \ud800",
    "path": "../../etc/passwd",
    "nothing to keep": "?!\n",
    "dots": "...",
    "empty": "",
}


@pytest.mark.parametrize("name", TEXTS)
def test_any_text_names_a_file_and_labels_a_picture(name: str, tmp_path: Path) -> None:
    stem = file_stem(TEXTS[name])
    assert 0 < len(os.fsencode(stem)) <= STEM_BYTES
    (tmp_path / f"{stem}-seed18446744073709551615-100.png").write_bytes(b"")
    assert [path.parent for path in tmp_path.rglob("*.png")] == [tmp_path]
    label = label_of(TEXTS[name])
    assert label.isprintable()
    picture = Image.new("L", (8, 8))
    for options in ({"labels": [TEXTS[name]] * 2}, {"row_labels": [TEXTS[name]]}):
        assert grid_picture([picture, picture], columns=2, **options).width > 0


def test_a_name_says_what_the_text_says() -> None:
    assert file_stem("a red cat, 3d") == "a-red-cat-3d"
    assert file_stem("बिल्ली") == "बिल्ली"
    assert file_stem("?!") == "picture"
    assert label_of("a cat\nin a hat") == "a cat in a hat"


def test_a_label_is_cut_to_the_sheet() -> None:
    picture = Image.new("L", (8, 8))
    assert grid_picture([picture], columns=1, row_labels=["w" * 9000]).width == grid_picture([picture], columns=1).width
