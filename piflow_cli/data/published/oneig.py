"""OneIG-Bench (arXiv 2506.07977): six categories; four pictures of a prompt on a sheet, by category and model."""

import csv
from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from piflow_cli.data.published.entry import Entry, Layout, PublishedSet, entry_of, field, read_table
from piflow_cli.errors import DataError
from piflow_cli.io.pictures import encoded, tiled
from piflow_cli.io.texts.names import file_stem

FOLDERS = {
    "Anime_Stylization": "anime",
    "Portrait": "human",
    "General_Object": "object",
    "Text_Rendering": "text",
    "Knowledge_Reasoning": "reasoning",
    "Multilingualism": "multilingualism",
}
"""Of the categories, as its scripts name them."""
PROMPTS = ("prompt_en", "prompt_cn", "prompt")
"""Columns of OneIG-Bench.csv and of OneIG-Bench-ZH.csv."""


def read(path: Path) -> list[Entry]:
    """Entries of OneIG-Bench.csv, or of its Chinese counterpart.

    Raises:
        DataError: another table, or a category that is none.
    """
    found = []
    reader = csv.DictReader(read_table(path).splitlines(keepends=True))
    column = next((name for name in PROMPTS if name in (reader.fieldnames or ())), PROMPTS[0])
    for row in reader:
        where = f"{path}:{reader.line_num}"
        category = field(row, "category", where=where)
        if category not in FOLDERS:
            raise DataError(f"{where} has the category {category!r}; known are {', '.join(FOLDERS)}")
        place = f"{FOLDERS[category]}/{field(row, 'id', where=where)}"
        found.append(entry_of(field(row, column, where=where), where=where, place=place))
    return found


def files(entry: Entry, pictures: Sequence[Image], model: str) -> dict[str, bytes]:
    """`anime/MODEL/000.webp`: pictures side by side, two a row, without loss."""
    folder, name = entry.place.split("/")
    sheet = tiled(pictures, columns=2 if len(pictures) > 1 else 1)
    return {f"{folder}/{file_stem(model, otherwise='model')}/{name}.webp": encoded(sheet, ".webp")}


SET = PublishedSet(
    name="oneig",
    source="OneIG-Bench.csv or OneIG-Bench-ZH.csv of github.com/OneIG-Bench/OneIG-Benchmark",
    read=read,
    layout=Layout(pictures=(4, 1), files=files),
)
