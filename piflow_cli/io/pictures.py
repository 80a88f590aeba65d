"""Tensors to 8-bit pictures, and pictures to grids.

Shapes: N pictures, C channels (1 or 3), H, W size in pixels.
"""

from collections.abc import Sequence
from io import BytesIO

import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from piflow_cli.errors import SamplingError
from piflow_cli.io.texts.names import label_of

MIN_CELL_PX = 64
"""Pictures in a grid are enlarged by a whole factor to at least this size."""
LABELLED_CELL_PX = 128
"""And to this one where each has a label, which is cut to the picture's width."""
LABEL_PX = 14
FORMATS = {
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
"""How a picture is written, by its file's suffix."""


def to_uint8(images: Tensor) -> Tensor:
    """Pictures (N, C, H, W) in [0, 1] rounded to the 256 levels a file holds, uint8.

    Raises:
        SamplingError: NaN or infinity, which would become black.
    """
    if not images.isfinite().all():
        raise SamplingError(
            "pictures hold values that are not finite (NaN or infinity): the network or the autoencoder overflowed, "
            "as float16 does, or has damaged weights. Use bfloat16 or float32."
        )
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def to_pictures(images: Tensor) -> list[Image.Image]:
    """Pictures (N, C, H, W) in [0, 1] as PIL images of mode L or RGB."""
    arrays = to_uint8(images).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(a[:, :, 0] if a.shape[2] == 1 else a) for a in arrays]


def grid_picture(
    pictures: Sequence[Image.Image],
    *,
    columns: int,
    gap_px: int = 2,
    row_labels: Sequence[str] = (),
    labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """One picture of many, row by row, small ones enlarged without smoothing.

    Args:
        pictures: of one size.
        columns: pictures a row.
        gap_px: between them.
        row_labels: texts above the rows.
        labels: texts above the pictures, in place of the rows'.
        column_labels: texts above the columns.
    """
    width, height = pictures[0].size
    scale = _enlargement(pictures[0].size, labelled=bool(labels))
    head = LABEL_PX if row_labels or labels else 0
    roof = LABEL_PX if column_labels else 0
    cell_w, cell_h = width * scale + gap_px, height * scale + gap_px + head
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell_w + gap_px, roof + rows * cell_h + gap_px), "white")
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(column_labels):
        draw.text((gap_px + column * cell_w + 1, gap_px), _cut(draw, text, cell_w - gap_px), fill="black")
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        left, top = gap_px + column * cell_w, gap_px + roof + row * cell_h + head
        if labels:
            draw.text((left + 1, top - LABEL_PX), _cut(draw, labels[i], cell_w - gap_px), fill="black")
        elif column == 0 and row < len(row_labels):
            draw.text((left + 1, top - LABEL_PX), _cut(draw, row_labels[row], sheet.width - left), fill="black")
        enlarged = picture.convert("RGB").resize((width * scale, height * scale), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (left, top))
    return sheet


def _enlargement(size_px: tuple[int, int], *, labelled: bool) -> int:
    """The whole factor that brings a picture to the size of a cell."""
    return max(1, -(-(LABELLED_CELL_PX if labelled else MIN_CELL_PX) // max(size_px)))


def sheet_size(size_px: tuple[int, int], count: int, *, columns: int) -> tuple[int, int]:
    """Width and height in pixels that `grid_picture` needs at most for so many labelled pictures, gaps left out."""
    scale = _enlargement(size_px, labelled=True)
    return columns * size_px[0] * scale, -(-count // columns) * (size_px[1] * scale + LABEL_PX) + LABEL_PX


def _cut(draw: ImageDraw.ImageDraw, text: str, width_px: int) -> str:
    """The text on one line, or as much of it as fits with an ellipsis."""
    text = label_of(text)
    if draw.textlength(text) <= width_px:
        return text
    return next(c for n in range(len(text), -1, -1) if draw.textlength(c := text[:n] + "...") <= width_px or n == 0)


def png_bytes(picture: Image.Image, facts: dict[str, str] | None = None) -> bytes:
    """A picture as a PNG file, with what it says of itself as text entries."""
    info = PngInfo()
    for key, value in (facts or {}).items():
        info.add_itxt(key, value)
    buffer = BytesIO()
    picture.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def tiled(pictures: Sequence[Image.Image], *, columns: int) -> Image.Image:
    """Pictures of one size row by row without gaps, as they are."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(picture, (column * width, row * height))
    return sheet


def encoded(picture: Image.Image, suffix: str) -> bytes:
    """A picture as the bytes of a file: .png and .webp without loss, .jpg with little."""
    buffer = BytesIO()
    picture.convert("RGB").save(buffer, **FORMATS[suffix])
    return buffer.getvalue()
