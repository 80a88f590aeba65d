"""Prompts with the files of their reference pictures: how rows name them, reading them, and what tells sets apart."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from piflow_cli.data.files.pictures import open_pictures
from piflow_cli.data.files.references import InstructionSet, read_instructions
from piflow_cli.errors import DataError

ROWS = [
    {"prompt": "make it red", "source": "cat.png"},
    {"prompt": " "},
    {"prompt": "with the hat", "source": ["cat.png", "more/hat.png"]},
    {"prompt": "a dog"},
]


def write(folder: Path, rows: list[dict[str, object]], name: str = "edits.jsonl") -> Path:
    (folder / "more").mkdir(exist_ok=True)
    for i, (path, size) in enumerate({"cat.png": (96, 64), "more/hat.png": (64, 80), "target.png": (70, 70)}.items()):
        Image.fromarray(np.full((size[1], size[0], 3), 40 * i, np.uint8)).save(folder / path)
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return folder / name


def read(path: Path, **settings: object) -> InstructionSet:
    return read_instructions(str(path), **{"name": "source", "column": None, "limit": None, "size_px": None} | settings)


def test_rows_name_pictures_from_the_folder_of_their_file_on(tmp_path: Path) -> None:
    found = read(write(tmp_path, ROWS))
    assert [str(prompt) for prompt in found] == ["make it red", "with the hat", "a dog"]
    assert [[picture.size for picture in prompt.pictures] for prompt in found] == [[(96, 64)], [(96, 64), (64, 80)], []]
    assert found[1].names == ("cat.png", "hat.png")
    assert [p.size for p in read(tmp_path / "edits.jsonl", size_px=(32, 48))[1].pictures] == [(32, 48)] * 2
    assert list(map(str, read(tmp_path / "edits.jsonl", limit=1))) == ["make it red"]
    assert list(map(str, read(tmp_path / "edits.jsonl", limit=-2))) == ["with the hat", "a dog"]
    again = pickle.loads(pickle.dumps(found))
    assert again.digest() == found.digest()


def test_content_number_and_size_of_pictures_tell_sets_apart(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    before = read(path).digest()
    assert read(path).digest() == before
    assert read(path, size_px=(32, 32)).digest() != before
    assert read(path).between(0, 1).digest() != read(path).between(1, 2).digest()
    (tmp_path / "cat.png").rename(tmp_path / "lion.png")
    moved = [{**row, "source": "lion.png"} if row.get("source") == "cat.png" else row for row in ROWS]
    moved[2] = {"prompt": "with the hat", "source": ["lion.png", "more/hat.png"]}
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, moved)))
    assert read(path).digest() == before
    Image.new("RGB", (96, 64), "white").save(tmp_path / "lion.png")
    assert read(path).digest() != before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "source": "gone.png"}, r"the reference picture .*gone\.png of the prompt 'a' is not there"),
        ({"prompt": "a", "source": 3}, r"edits\.jsonl:1, field 'source', holds '3'; it has to be the name"),
        ({"prompt": "a", "source": ["cat.png", None]}, "it has to be the name of a picture file, or a list of such"),
        ({"prompt": "a"}, "no row of .* names a picture in 'source'"),
    ],
)
def test_what_names_no_picture_is_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, [row]))


def test_files_whose_rows_name_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    with pytest.raises(DataError, match=r"rows of a \.jsonl name reference pictures, and .*prompts\.txt is none"):
        read(tmp_path / "prompts.txt")
    with pytest.raises(DataError, match="owner/name is a data set of the hub"):
        read_instructions("owner/name", name="source", column=None, limit=None, size_px=None)


def test_metadata_names_targets_and_references(tmp_path: Path) -> None:
    rows = [{"file_name": "target.png", **row} for row in ROWS]
    write(tmp_path, rows, "metadata.jsonl")
    found = open_pictures(tmp_path, column=None, image_column="image", references="source")
    assert list(found.captions) == ["make it red", "with the hat", "a dog"]
    assert [[path.name for path in paths] for paths in found.references] == [["cat.png"], ["cat.png", "hat.png"], []]
    assert found.unread == ()
    with pytest.raises(DataError, match=r"name reference pictures, and none of .* does so in 'other'"):
        open_pictures(tmp_path, column=None, image_column="image", references="other")
