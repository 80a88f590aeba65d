"""COCO's captions (arXiv 1504.00325) as prompts: one of each picture, whose photos a folder of references may hold."""

from pathlib import Path

from piflow_cli.data.published.entry import Entry, PublishedSet, entry_of, field, read_json
from piflow_cli.errors import DataError


def read(path: Path) -> list[Entry]:
    """Entries of captions_val2014.json or another year's: of each picture its first caption, by their numbers.

    Papers draw 10,000 or 30,000 at random, each its own; `--samples` takes the first of these.

    Raises:
        DataError: no annotations with captions.
    """
    annotations = field(read_json(path), "annotations", where=str(path))
    if not isinstance(annotations, list):
        raise DataError(f"{path} has no list of annotations; {SET.name} is {SET.source}")
    first: dict[int, tuple[int, object]] = {}
    for row in annotations:
        image, number = field(row, "image_id", where=str(path)), field(row, "id", where=str(path))
        if not isinstance(image, int) or not isinstance(number, int):
            raise DataError(f"{path} has an annotation of image_id {image!r} and id {number!r}; both are numbers")
        if image not in first or number < first[image][0]:
            first[image] = (number, field(row, "caption", where=str(path)))
    return [entry_of(caption, where=f"{path}, annotation {number}") for _, (number, caption) in sorted(first.items())]


SET = PublishedSet(
    name="coco",
    source="annotations/captions_val2014.json, or another year's, of cocodataset.org",
    read=read,
)
