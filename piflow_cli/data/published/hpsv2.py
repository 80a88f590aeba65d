"""The prompts of HPSv2's benchmark (arXiv 2306.09341): four styles of 800; pictures by style and number."""

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from piflow_cli.data.published.entry import Entry, Layout, OnHub, PublishedSet, entry_of, read_json
from piflow_cli.errors import DataError
from piflow_cli.io.pictures import encoded

STYLES = ("anime", "concept-art", "paintings", "photo")
FOLDER = "benchmark"


def read(path: Path) -> list[Entry]:
    """Entries of a folder with a `STYLE.json` for each style, in their order, or of one such file.

    Raises:
        DataError: a style without its file, or a file that is no list of prompts.
    """
    paths = [path / f"{style}.json" for style in STYLES] if path.is_dir() else [path]
    if missing := [file.name for file in paths if not file.is_file()]:
        raise DataError(f"{path} has no {', '.join(missing)}; {SET.name} is {SET.source}")
    found = []
    for file in paths:
        prompts = read_json(file)
        if not isinstance(prompts, list):
            raise DataError(f"{file} is no list of prompts; {SET.name} is {SET.source}")
        found += [
            entry_of(prompt, where=f"{file}, prompt {number}", place=f"{file.stem}/{number:05}")
            for number, prompt in enumerate(prompts)
        ]
    return found


def files(entry: Entry, pictures: Sequence[Image], model: str) -> dict[str, bytes]:  # noqa: ARG001
    """`anime/00000.jpg`, the only name that hpsv2.evaluate opens: JPEG of quality 95, colours at full size."""
    return {f"{entry.place}.jpg": encoded(pictures[0], ".jpg")}


SET = PublishedSet(
    name="hpsv2",
    source="the folder benchmark of huggingface.co/datasets/zhwang/HPDv2: anime.json, concept-art.json, paintings.json "
    "and photo.json",
    read=read,
    layout=Layout(pictures=(1,), files=files),
    on_hub=OnHub("zhwang/HPDv2", tuple(f"{FOLDER}/{style}.json" for style in STYLES), FOLDER),
)
