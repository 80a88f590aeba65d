"""Lists of prompts: labels where every line has one, and mistakes that name the line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from piflow_cli.data.prompt_lists import list_prompts, read_prompt_list
from piflow_cli.errors import DataError


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_labels_belong_to_their_prompts_and_blank_ones_are_skipped_with_theirs(tmp_path: Path) -> None:
    rows = [{"prompt": "a cat", "label": 3}, {"prompt": " ", "label": 9}, {"prompt": "a dog", "label": 0}]
    listed = read_prompt_list(write(tmp_path / "prompts.jsonl", *rows), name="pets")
    assert [listed.texts[i] for i in range(len(listed))] == ["a cat", "a dog"]
    assert listed.labels == (3, 0)
    assert listed.name == "pets"


def test_labels_of_a_folder_follow_its_files(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", {"prompt": "later", "label": 1})
    write(tmp_path / "a.jsonl", {"prompt": "first", "label": 2})
    listed = read_prompt_list(tmp_path)
    assert ([listed.texts[0], listed.texts[1]], listed.labels) == (["first", "later"], (2, 1))
    assert listed.name == str(tmp_path)


def test_lists_without_labels(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("a cat\n\na dog\n")
    assert read_prompt_list(tmp_path / "plain.txt").labels is None
    words = write(tmp_path / "words.jsonl", {"prompt": "a cat", "label": "pet"}, {"prompt": "a dog"})
    assert read_prompt_list(words).labels is None


@pytest.mark.parametrize("odd", [{}, {"label": None}, {"label": "pet"}, {"label": -1}, {"label": True}, {"label": 1.5}])
@pytest.mark.parametrize("first", [False, True])
def test_labels_that_only_some_lines_have_are_refused(tmp_path: Path, odd: dict, first: bool) -> None:
    rows = [{"prompt": "a dog"} | odd, {"prompt": "a cat", "label": 3}]
    path = write(tmp_path / "prompts.jsonl", *(rows if first else rows[::-1]))
    with pytest.raises(DataError, match=rf"prompts\.jsonl:{1 if first else 2} has .* for a 'label'.*every prompt one"):
        read_prompt_list(path)


def test_missing_and_empty_lists_are_called_prompts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^prompts .*none\.txt does not exist"):
        read_prompt_list(tmp_path / "none.txt")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"^prompts .*empty\.txt has no prompts"):
        read_prompt_list(tmp_path / "empty.txt")


def test_first_distinct_prompts(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\nb\na\nc\nb\nd\n")
    listed = read_prompt_list(tmp_path / "list.txt")
    assert listed.first_distinct(3) == [0, 1, 3]
    assert listed.first_distinct(99) == [0, 1, 3, 5]


def test_keys_know_pictures_by_what_they_show(tmp_path: Path) -> None:
    for name, colour in {"a": "red", "b": "blue", "c": "red"}.items():
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{name}.png")
    a, b, c = (tmp_path / f"{name}.png" for name in "abc")
    asked = [("alone", []), *(("paint it", files) for files in ([a], [b], [c], [a, b], [b, a]))]
    keys = [*map(list_prompts(asked, name="asked").key, range(6))]
    assert keys[0] == "alone"
    assert keys[1] == keys[3]
    assert len({*keys}) == 5
    assert all(key.startswith("paint it (about ") for key in keys[1:])
    assert list_prompts(asked, name="asked", size_px=(2, 2)).key(1) != keys[1]
    assert list_prompts([("alone", [])], name="asked").about is None
    with pytest.raises(DataError, match=r"none\.png of the prompt 'paint it' is not there"):
        list_prompts([("paint it", [tmp_path / "none.png"])], name="asked")
