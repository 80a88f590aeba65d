"""OneIG-Bench (arXiv 2506.07977): six categories; four pictures of a prompt on a sheet, by category and model."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL.Image import Image

from piflow_cli.data.published.entry import Entry, Layout, OnHub, PublishedSet, entry_of, field, listed_rows, read_table
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
"""Columns of OneIG-Bench and of OneIG-Bench-ZH."""


def read(path: Path) -> list[Entry]:
    """Entries of OneIG-Bench.csv or OneIG-Bench.json, or of their Chinese counterparts.

    Raises:
        DataError: another table, or a category that is none.
    """
    found = []
    for where, row in listed_rows(path, source=SET.source) if path.suffix.lower() == ".json" else _table(path):
        category = field(row, "category", where=where)
        if category not in FOLDERS:
            raise DataError(f"{where} has the category {category!r}; known are {', '.join(FOLDERS)}")
        place = f"{FOLDERS[category]}/{field(row, 'id', where=where)}"
        column = next((name for name in PROMPTS if isinstance(row, dict) and name in row), PROMPTS[0])
        found.append(entry_of(field(row, column, where=where), where=where, place=place))
    return found


def _table(path: Path) -> Iterator[tuple[str, object]]:
    reader = csv.DictReader(read_table(path).splitlines(keepends=True))
    yield from ((f"{path}:{reader.line_num}", row) for row in reader)


def files(entry: Entry, pictures: Sequence[Image], model: str) -> dict[str, bytes]:
    """`anime/MODEL/000.webp`: pictures side by side, two a row, without loss."""
    folder, name = entry.place.split("/")
    sheet = tiled(pictures, columns=2 if len(pictures) > 1 else 1)
    return {f"{folder}/{file_stem(model, otherwise='model')}/{name}.webp": encoded(sheet, ".webp")}


SET = PublishedSet(
    name="oneig",
    source="OneIG-Bench.csv or OneIG-Bench-ZH.csv of github.com/OneIG-Bench/OneIG-Benchmark, or the .json of these "
    "names of huggingface.co/datasets/OneIG-Bench/OneIG-Bench",
    read=read,
    layout=Layout(pictures=(4, 1), files=files),
    on_hub=OnHub("OneIG-Bench/OneIG-Bench", ("OneIG-Bench.json",), "OneIG-Bench.json"),
)
