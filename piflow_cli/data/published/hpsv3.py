"""The prompts of HPSv3's benchmark (arXiv 2508.03789): pictures and their prompts by category."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from PIL.Image import Image

from piflow_cli.data.files.prompts import read_json_lines
from piflow_cli.data.published.entry import Entry, Layout, OnHub, PublishedSet, entry_of, field, listed_rows
from piflow_cli.errors import DataError
from piflow_cli.io.pictures import encoded

CATEGORIES = (
    "Characters",
    "Arts",
    "Design",
    "Architecture",
    "Animals",
    "Natural Scenery",
    "Transportation",
    "Products",
    "Others",
    "Plants",
    "Food",
    "Science",
)
"""In the order of the paper's table."""
FOLDER = "benchmark"
NAMES = tuple(f"benchmark_{category}.json" for category in CATEGORIES)


def read(path: Path) -> list[Entry]:
    """Entries of a folder with a `benchmark_CATEGORY.json` for each category, in their order, or of one such list.

    A list is a .json, or JSON lines, with `category`, `image_file` and `caption`.

    Raises:
        DataError: a category without its file, or a file that is no such list.
    """
    if path.is_dir() and (missing := [name for name in NAMES if not (path / name).is_file()]):
        raise DataError(f"{path} has no {', '.join(missing)}; {SET.name} is {SET.source}")
    found = []
    for where, row in chain.from_iterable(map(_rows, [path / name for name in NAMES] if path.is_dir() else [path])):
        name = Path(str(field(row, "image_file", where=where))).stem
        place = f"{field(row, 'category', where=where)}/{name}"
        found.append(entry_of(field(row, "caption", where=where), where=where, place=place))
    return found


def _rows(path: Path) -> Iterator[tuple[str, object]]:
    return read_json_lines(path) if path.suffix.lower() == ".jsonl" else listed_rows(path, source=SET.source)


def files(entry: Entry, pictures: Sequence[Image], model: str) -> dict[str, bytes]:  # noqa: ARG001
    """`CATEGORY/NAME.png`, and its prompt in `CATEGORY/NAME.txt`."""
    return {f"{entry.place}.png": encoded(pictures[0], ".png"), f"{entry.place}.txt": entry.prompt.encode()}


SET = PublishedSet(
    name="hpsv3",
    source="the folder benchmark of huggingface.co/datasets/MizzenAI/HPDv3 (benchmark_Characters.json and eleven more) "
    "or one list of category, image_file and caption",
    read=read,
    layout=Layout(pictures=(1,), files=files),
    on_hub=OnHub("MizzenAI/HPDv3", tuple(f"{FOLDER}/{name}" for name in NAMES), FOLDER),
)
