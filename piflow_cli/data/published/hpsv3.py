"""The prompts of HPSv3's benchmark (arXiv 2508.03789): pictures and their prompts by category."""

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from piflow_cli.data.files.prompts import read_json_lines
from piflow_cli.data.published.entry import Entry, Layout, PublishedSet, entry_of, field, read_json
from piflow_cli.errors import DataError
from piflow_cli.io.pictures import encoded


def read(path: Path) -> list[Entry]:
    """Entries of a .json list or of JSON lines with `category`, `image_file` and `caption`.

    Raises:
        DataError: no such list.
    """
    if path.suffix.lower() == ".jsonl":
        rows = list(read_json_lines(path))
    else:
        listed = read_json(path)
        if not isinstance(listed, list):
            raise DataError(f"{path} is no list; {SET.name} is {SET.source}")
        rows = [(f"{path}, row {number}", row) for number, row in enumerate(listed)]
    found = []
    for where, row in rows:
        name = Path(str(field(row, "image_file", where=where))).stem
        place = f"{field(row, 'category', where=where)}/{name}"
        found.append(entry_of(field(row, "caption", where=where), where=where, place=place))
    return found


def files(entry: Entry, pictures: Sequence[Image], model: str) -> dict[str, bytes]:  # noqa: ARG001
    """`CATEGORY/NAME.png`, and its prompt in `CATEGORY/NAME.txt`."""
    return {f"{entry.place}.png": encoded(pictures[0], ".png"), f"{entry.place}.txt": entry.prompt.encode()}


SET = PublishedSet(
    name="hpsv3",
    source="the prompts in benchmark of huggingface.co/datasets/MizzenAI/HPDv3, with category, image_file and caption",
    read=read,
    layout=Layout(pictures=(1,), files=files),
)
