"""Prompts come out of every kind of file in order, and every fault of a file is named with its place."""

import csv
import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from piflow_cli.data.files.prompts import PromptSet, find_prompt_shards, read_prompts
from piflow_cli.errors import DataError, MissingExtraError

TEXTS = ["a red bicycle", "ein grünes Blatt", "山の上の猫", "a sign that says “open”"]

Write = Callable[[Path, list[str]], Path]


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def json_lines(path: Path, texts: list[str], *, column: str = "prompt") -> Path:
    return lines(path, [json.dumps({"id": i, column: text}) for i, text in enumerate(texts)])


def parquet(path: Path, texts: list[str | None], *, column: str = "caption") -> Path:
    pq.write_table(pa.table({"id": list(range(len(texts))), column: texts}), path, row_group_size=2)
    return path


def table(path: Path, texts: list[str], *, column: str = "prompt") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", column), *enumerate(texts)])
    return path


def listed(prompts: PromptSet) -> list[str]:
    return [prompts[i] for i in range(len(prompts))]


KINDS = [(lines, "txt"), (json_lines, "jsonl"), (table, "csv"), (parquet, "parquet")]


@pytest.mark.parametrize(("write", "suffix"), KINDS)
def test_every_kind_reads_the_same(tmp_path: Path, write: Write, suffix: str) -> None:
    prompts = read_prompts(str(write(tmp_path / f"p.{suffix}", TEXTS)))
    assert listed(prompts) == TEXTS
    assert prompts.digest() == PromptSet.pack(TEXTS).digest()


@pytest.mark.parametrize(("write", "suffix"), KINDS)
def test_a_folder_is_its_shards_by_name(tmp_path: Path, write: Write, suffix: str) -> None:
    write(tmp_path / f"b.{suffix}", TEXTS[2:])
    write(tmp_path / f"a.{suffix}", TEXTS[:2])
    (tmp_path / "README.md").write_text("not prompts")
    assert listed(read_prompts(str(tmp_path))) == TEXTS


@pytest.mark.parametrize("column", ["prompt", "caption", "text"])
def test_usual_columns_are_found(tmp_path: Path, column: str) -> None:
    assert listed(read_prompts(str(json_lines(tmp_path / "p.jsonl", TEXTS, column=column)))) == TEXTS


def test_a_named_column_comes_before_the_usual_ones(tmp_path: Path) -> None:
    lines(tmp_path / "p.jsonl", [json.dumps({"prompt": "short", "long": "a long one"})])
    assert listed(read_prompts(str(tmp_path / "p.jsonl"), column="long")) == ["a long one"]


def test_blank_and_null_prompts_are_skipped(tmp_path: Path) -> None:
    lines(tmp_path / "p.txt", ["", "one", "   ", "\ttwo ", ""])
    parquet(tmp_path / "p.parquet", ["one", None, " ", "two"])
    lines(tmp_path / "p.jsonl", ['{"text": "one"}', "", '{"text": null}', '{"text": "two"}'])
    for name in ("p.txt", "p.parquet", "p.jsonl"):
        assert listed(read_prompts(str(tmp_path / name))) == ["one", "two"]


def test_windows_line_ends_and_byte_order_marks_are_no_part_of_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("one\r\ntwo\r\n".encode("utf-8-sig"))
    assert listed(read_prompts(str(tmp_path / "p.txt"))) == ["one", "two"]


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, TEXTS), (2, TEXTS[:2]), (-1, TEXTS[-1:]), (9, TEXTS), (-9, TEXTS)]
)
def test_limit_takes_the_first_or_the_last(tmp_path: Path, limit: int | None, expected: list[str]) -> None:
    prompts = read_prompts(str(lines(tmp_path / "p.txt", TEXTS)), limit=limit)
    assert listed(prompts) == expected
    assert prompts.digest() == PromptSet.pack(expected).digest()


def test_the_digest_tells_prompts_and_their_borders_apart() -> None:
    sets = [["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], ["ab", "c", ""]]
    assert len({PromptSet.pack(texts).digest() for texts in sets}) == len(sets)


def test_a_part_is_a_set_of_its_own() -> None:
    part = PromptSet.pack(TEXTS).between(1, 3)
    assert listed(part) == TEXTS[1:3]
    assert part.digest() == PromptSet.pack(TEXTS[1:3]).digest()


@pytest.mark.parametrize("index", [-1, 4])
def test_there_is_no_prompt_outside(index: int) -> None:
    with pytest.raises(IndexError, match=f"prompt {index} of 4"):
        PromptSet.pack(TEXTS)[index]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"", "p.txt has no prompts"),
        ("p.txt", b"\n \n", "p.txt has no prompts"),
        ("p.txt", b"one\ntwo\nthr\xffee\n", r"p.txt:3 is not UTF-8 .*byte 3 of the line"),
        ("p.jsonl", b'{"prompt": "one"}\n\xfe\n', "p.jsonl:2 is not UTF-8"),
        ("p.jsonl", b'{"prompt": "one"}\n\n{"prompt": \n', "p.jsonl:3 is not JSON"),
        ("p.jsonl", b"[" * 100_000, "p.jsonl:1 is not JSON"),
        ("p.jsonl", b'["one"]\n', r"p.jsonl:1 is list, not an object such as"),
        (
            "p.jsonl",
            b'{"id": 1, "title": "one"}',
            "p.jsonl:1 has no column 'prompt' or 'caption' or 'text'; it has 'id', 't",
        ),
        ("p.jsonl", b"{}", "p.jsonl:1 has no column .* it has no columns"),
        ("p.jsonl", b'{"text": ["one"]}', r"p.jsonl:1, column 'text', holds list .*has to be a text"),
        ("p.jsonl", b'{"text": "\\ud800"}', "p.jsonl:1, column 'text', holds a character that UTF-8 does not have"),
        ("p.parquet", b"PAR1 and no more", "p.parquet cannot be read as parquet"),
        ("p.parquet", b"", "p.parquet cannot be read as parquet"),
        ("p.csv", b"", "p.csv has no columns"),
        ("p.csv", b"title\none\n", "p.csv has no column 'prompt' or 'caption' or 'text'; it has 'title'"),
        ("p.csv", b'prompt\n"one\n', "p.csv cannot be read as .csv"),
        ("p.csv", b"prompt\nt\xffo\n", "p.csv is not UTF-8"),
        ("p.tsv", b"prompt\none\n", "p.tsv ends in '.tsv'; prompts are read from .txt, .jsonl, .csv, .parquet"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompts(str(tmp_path / name))


def test_a_named_column_that_is_missing(tmp_path: Path) -> None:
    parquet(tmp_path / "p.parquet", TEXTS)
    with pytest.raises(DataError, match=r"p.parquet has no column 'prompts'; it has 'id', 'caption'.*data.column"):
        read_prompts(str(tmp_path / "p.parquet"), column="prompts")


def test_a_column_of_numbers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 0 holds int '0'; a prompt has to be a text"):
        read_prompts(str(parquet(tmp_path / "p.parquet", TEXTS)), column="id")


@pytest.mark.parametrize("name", ["nowhere.txt", "data/prompts.txt", "/no/such/folder"])
def test_a_missing_file_is_no_data_set_of_the_hub(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"{re.escape(name)} does not exist"):
        read_prompts(name)


def test_a_folder_without_prompts_or_of_several_kinds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no files of prompts"):
        read_prompts(str(tmp_path))
    lines(tmp_path / "a.txt", TEXTS)
    json_lines(tmp_path / "b.jsonl", TEXTS)
    with pytest.raises(DataError, match=r"several kinds \(.jsonl, .txt\)"):
        read_prompts(str(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="datasets is installed")
def test_a_data_set_of_the_hub_needs_its_package() -> None:
    with pytest.raises(MissingExtraError, match=r"no file or folder owner/name.*pip install 'piflow\[data\]'"):
        read_prompts("owner/name")


def test_a_data_set_of_the_hub_that_cannot_be_loaded() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="no file or folder owner/name, and no split 'train'"):
        read_prompts("owner/name")


@pytest.mark.parametrize(("splits", "found"), [(("train", "test"), "train"), (("test",), "test")])
def test_a_data_set_of_the_hub_that_was_fetched_before(
    splits: tuple[str, ...], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists to measure by may be a data set's only split, as those of pi-Flow's tables are; those to train on not."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "name").mkdir()
    for split in splits:
        parquet(tmp_path / "name" / f"{split}-00000-of-00001.parquet", [f"{text} of {split}" for text in TEXTS])
    datasets.load_dataset(str(tmp_path / "name"))
    (tmp_path / "cache" / "name").rename(tmp_path / "cache" / "owner___name")
    assert listed(read_prompts("owner/name", any_split=True)) == [f"{text} of {found}" for text in TEXTS]
    if found == "train":
        assert listed(read_prompts("owner/name")) == [f"{text} of train" for text in TEXTS]
    else:
        with pytest.raises(DataError, match="data set owner/name has no split 'train'; it has test"):
            read_prompts("owner/name")


def test_a_data_set_of_the_hub_is_read_by_its_split_for_training(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    parquet(tmp_path / "data" / "train-00000-of-00002.parquet", TEXTS[:2])
    parquet(tmp_path / "data" / "train-00001-of-00002.PARQUET", TEXTS[2:])
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", ["held out"])
    parquet(tmp_path / "data" / "._train-00000-of-00002.parquet", ["of a system"])
    (tmp_path / "README.md").write_text("a card")
    assert listed(read_prompts(str(tmp_path))) == TEXTS
    assert find_prompt_shards(tmp_path)[1] == [f"{tmp_path}/data/test-00000-of-00001.parquet (split test)"]


def test_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    assert listed(read_prompts(str(lines(tmp_path / "P.TXT", TEXTS)))) == TEXTS
    assert listed(read_prompts(str(tmp_path))) == TEXTS


def test_a_pipe_is_no_file_of_prompts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.txt")
    with pytest.raises(DataError, match=r"p.txt is neither a regular file nor a folder"):
        read_prompts(str(tmp_path / "p.txt"))
