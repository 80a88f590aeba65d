"""Sheets that compare: a column for each picture that was asked for, a row for whoever drew it, of bounded size."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from piflow_cli.io.images import cover
from piflow_cli.io.texts.names import label_of

FONT_PX = 13
LINE_PX = 17
MARGIN_PX = 116
"""For the names of rows, left of them."""
GAP_PX = 4
MAX_COLUMNS = 8
CELL_PX = (128, 256)
"""Pictures are enlarged by a whole factor to the first, and scaled down to the second."""
MAX_PIXELS = 6_000_000
"""Of a sheet; cells become smaller for it, down to the first of `CELL_PX`."""
LABEL_LINES = 2
INK, PAPER = "black", "white"


@dataclass(frozen=True)
class Row:
    """Pictures of one artist.

    Args:
        names: lines beside the row.
        pictures: one a column, of one size.
    """

    names: tuple[str, ...]
    pictures: Sequence[Image.Image]


def comparison_sheet(labels: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """One picture of all rows, `MAX_COLUMNS` columns wide, the rows again below for the columns beyond.

    Args:
        labels: a text a column, in up to two lines above it.
        rows: as many pictures as labels in each.
    """
    blocks = -(-len(labels) // MAX_COLUMNS)
    columns = -(-len(labels) // blocks)
    cell = _cell_size(rows[0].pictures[0].size, columns * blocks * len(rows))
    head, step = LABEL_LINES * LINE_PX + GAP_PX, cell[1] + GAP_PX
    block = head + len(rows) * step + GAP_PX
    sheet = Image.new("RGB", (MARGIN_PX + columns * (cell[0] + GAP_PX), blocks * block), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=FONT_PX)
    for i, label in enumerate(labels):
        top, left = i // columns * block, MARGIN_PX + i % columns * (cell[0] + GAP_PX)
        _write(draw, _lines(label_of(label), font, cell[0], LABEL_LINES), (left, top), font)
        for j, row in enumerate(rows):
            at = top + head + j * step
            if i % columns == 0:
                names = [line for name in row.names for line in _lines(name, font, MARGIN_PX - 2 * GAP_PX, 2)]
                _write(draw, names, (GAP_PX, at), font)
            sheet.paste(_fitted(row.pictures[i], cell), (left, at))
    return sheet


def shown_small(picture: Image.Image) -> Image.Image:
    """A copy of a picture that is not larger than cells are, to be kept for sheets."""
    small = picture.copy()
    small.thumbnail((2 * CELL_PX[1], 2 * CELL_PX[1]))
    return small


def rows_about(pictures: Sequence[Image.Image | None], *, size_px: tuple[int, int]) -> list[Row]:
    """The row of reference pictures, to be put above what was made of them; none where no column has one.

    Args:
        pictures: the first one of each column, its middle being shown; None leaves the place empty.
        size_px: width and height of the pictures below.
    """
    if not any(picture is not None for picture in pictures):
        return []
    empty = Image.new("RGB", size_px, PAPER)
    shown = [empty if picture is None else cover(picture, size_px=size_px, channels=3) for picture in pictures]
    return [Row(("reference",), shown)]


def _cell_size(size_px: tuple[int, int], count: int) -> tuple[int, int]:
    """Width and height of the cells of `count` pictures of one size."""
    longest = max(size_px)
    if longest < CELL_PX[0]:
        scale = -(-CELL_PX[0] // longest)
        return size_px[0] * scale, size_px[1] * scale
    room = (MAX_PIXELS / count * longest * longest / (size_px[0] * size_px[1])) ** 0.5
    aim = min(longest, CELL_PX[1], max(room, CELL_PX[0]))
    return max(1, round(size_px[0] * aim / longest)), max(1, round(size_px[1] * aim / longest))


def _fitted(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """A picture in the size of a cell, enlarged without smoothing, made smaller with."""
    kind = Image.Resampling.NEAREST if picture.width < cell[0] else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(cell, kind)


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], at: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    for i, line in enumerate(lines):
        draw.text((at[0], at[1] + i * LINE_PX), line, fill=INK, font=font)


def _lines(text: str, font: ImageFont.FreeTypeFont, width_px: int, most: int) -> list[str]:
    """A text in lines of a width, broken between words or inside long ones; dots where more is left out."""
    lines, rest = [], text
    while rest and len(lines) < most:
        end = _fitting(rest, font, width_px)
        if end < len(rest) and len(lines) == most - 1:
            while end > 1 and font.getlength(rest[:end].rstrip() + "...") > width_px:
                end -= 1
            return [*lines, rest[:end].rstrip() + "..."]
        space = rest.rfind(" ", 0, end + 1) if end < len(rest) else end
        end = space if space > 0 else end
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return lines


def _fitting(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> int:
    """How many letters from the start are no wider, at least one."""
    return next((n for n in range(len(text), 1, -1) if font.getlength(text[:n]) <= width_px), 1)
