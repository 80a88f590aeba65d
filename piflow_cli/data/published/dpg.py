"""DPG-Bench (ELLA, arXiv 2403.05135): dense prompts, a text file each; four pictures of one on a sheet of its name."""

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from piflow_cli.data.published.entry import Entry, Layout, PublishedSet, entry_of, read_table
from piflow_cli.errors import DataError
from piflow_cli.io.pictures import encoded, tiled


def read(path: Path) -> list[Entry]:
    """Entries of a folder of .txt files, each with one prompt, by their names.

    Raises:
        DataError: no folder.
    """
    if not path.is_dir():
        raise DataError(f"{path} is no folder; {SET.name} is {SET.source}")
    return [
        entry_of(" ".join(read_table(file).split()), where=str(file), place=file.stem)
        for file in sorted(path.glob("*.txt"))
    ]


def files(entry: Entry, pictures: Sequence[Image], model: str) -> dict[str, bytes]:  # noqa: ARG001
    """`NAME.png`: pictures side by side, two a row, without gaps. The scorer takes every file of the folder."""
    return {f"{entry.place}.png": encoded(tiled(pictures, columns=2 if len(pictures) > 1 else 1), ".png")}


SET = PublishedSet(
    name="dpg",
    source="the folder dpg_bench/prompts of github.com/TencentQQGYLab/ELLA",
    read=read,
    layout=Layout(pictures=(4, 1), files=files, square=True),
)
