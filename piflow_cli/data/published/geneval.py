"""GenEval (arXiv 2310.11513): objects, counts, colours and positions; a folder a prompt, as its scorer reads."""

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from piflow_cli.data.files.prompts import read_json_lines, read_lines
from piflow_cli.data.published.entry import Entry, Layout, PublishedSet, entry_of, field
from piflow_cli.io.pictures import encoded


def read(path: Path) -> list[Entry]:
    """Entries of evaluation_metadata.jsonl: the line of each goes beside its pictures as it is."""
    lines = [line for _, line in read_lines(path)]
    return [
        entry_of(field(row, "prompt", where=where), where=where, place=f"{number:05}", facts=lines[number])
        for number, (where, row) in enumerate(read_json_lines(path))
    ]


def files(entry: Entry, pictures: Sequence[Image], model: str) -> dict[str, bytes]:  # noqa: ARG001
    """`00000/metadata.jsonl` and `00000/samples/0000.png`, ..."""
    found = {f"{entry.place}/metadata.jsonl": f"{entry.facts}\n".encode()}
    return found | {f"{entry.place}/samples/{n:04}.png": encoded(picture, ".png") for n, picture in enumerate(pictures)}


SET = PublishedSet(
    name="geneval",
    source="prompts/evaluation_metadata.jsonl of github.com/djghosh13/geneval",
    read=read,
    layout=Layout(pictures=(4, *range(1, 100)), files=files),
)
