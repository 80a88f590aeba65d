"""Captioned pictures come out of every layout with their own captions, and what is left out is named."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from captioned_sets import (
    CAPTIONS,
    COUNT,
    by_caption,
    in_folder,
    in_json_tars,
    in_metadata,
    in_parquet,
    in_tars,
    opened,
    picture,
    write_files,
    write_table,
    write_tar,
)


@pytest.mark.parametrize("write", [in_metadata, in_folder, in_tars, in_json_tars, in_parquet])
def test_every_layout_gives_pictures_with_their_captions(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "set")
    found = opened(tmp_path / "set")
    assert [found.captions[i] for i in range(len(found.captions))] == CAPTIONS
    assert found.without_caption == ()
    for i in (4, 0, 3, 1, 2):
        assert found.pictures.content(i) == picture(i)
    assert len({found.pictures.name(i) for i in range(COUNT)}) == COUNT


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_a_single_shard_will_do(tmp_path: Path, suffix: str) -> None:
    {".tar": in_tars, ".parquet": in_parquet}[suffix](tmp_path / "set")
    found = opened(tmp_path / "set" / f"b{suffix}")
    assert [found.captions[i] for i in range(2)] == CAPTIONS[3:]


def test_pictures_without_captions_are_named(tmp_path: Path) -> None:
    in_folder(tmp_path / "set")
    (tmp_path / "set" / "0.txt").unlink()
    found = opened(tmp_path / "set")
    assert found.without_caption == (str(tmp_path / "set" / "0.PNG"),)
    assert found.captions[0] == CAPTIONS[1]
    assert found.pictures.content(0) == picture(1)
    write_tar(tmp_path / "one.tar", {"a.jpg": b"1", "b.jpg": b"2", "b.txt": b"two", "c.txt": b"three"})
    found = opened(tmp_path / "one.tar")
    assert found.without_caption == (f"{tmp_path / 'one.tar'}:a.jpg",)
    assert (len(found.captions), found.captions[0], found.pictures.content(0)) == (1, "two", b"2")


DOTTED = {
    "a.png": b"1",
    "a.txt": b"plain",
    "photo.v2.png": b"2",
    "photo.v2.txt": b"with a dot",
    "IMG 1.5x.JPG": b"3",
    "IMG 1.5x.TXT": b"in capitals",
    "d.v1/k.jpeg": b"4",
    "d.v1/k.caption": b"in a caption file",
    "d.v1/k.cls.json": b"{",
    "e.tif": b"5",
    "e.tif.json": b'{"text": "after the whole name"}',
}


@pytest.mark.parametrize("in_tar", [False, True])
def test_names_with_dots_and_capitals_keep_their_captions(tmp_path: Path, in_tar: bool) -> None:
    write_tar(tmp_path / "set.tar", DOTTED) if in_tar else write_files(tmp_path / "set", DOTTED)
    found = opened(tmp_path / ("set.tar" if in_tar else "set"))
    assert by_caption(found) == {
        "plain": b"1",
        "with a dot": b"2",
        "in capitals": b"3",
        "in a caption file": b"4",
        "after the whole name": b"5",
    }
    assert found.without_caption == found.unread == ()


def test_fields_after_the_first_dot_belong_to_their_sample(tmp_path: Path) -> None:
    """WebDataset's key ends at the first dot; a second picture of a sample is named, not given the caption."""
    one = {"0001.image.png": b"1", "0001.txt": b"one", "0001.cls": b"7"}
    two = {"0002.jpg": b"2", "0002.txt": b"two", "0002.mask.png": b"m"}
    write_tar(tmp_path / "one.tar", one | two | {"0003.a.png": b"x", "0003.b.txt": b"of another"})
    found = opened(tmp_path / "one.tar")
    assert by_caption(found) == {"one": b"1", "two": b"2"}
    assert found.without_caption == (f"{tmp_path}/one.tar:0002.mask.png", f"{tmp_path}/one.tar:0003.a.png")


SYSTEM_FILES = {"._a.png": b"x", "__MACOSX/._a.png": b"x", "__MACOSX/a.png": b"x", ".DS_Store": b"x", "Thumbs.db": b"x"}


@pytest.mark.parametrize("in_tar", [False, True])
def test_what_systems_leave_is_no_data(tmp_path: Path, in_tar: bool) -> None:
    files = SYSTEM_FILES | {"a.png": b"1", "a.txt": b"one"}
    write_tar(tmp_path / "set.tar", files) if in_tar else write_files(tmp_path / "set", files)
    found = opened(tmp_path / ("set.tar" if in_tar else "set"))
    assert by_caption(found) == {"one": b"1"}
    assert found.without_caption == found.unread == ()


@pytest.mark.parametrize("in_tar", [False, True])
def test_what_is_not_read_is_named_with_the_reason(tmp_path: Path, in_tar: bool) -> None:
    files = {"a.png": b"1", "a.txt": b"one", "b.heic": b"x", "b.txt": b"b", "c": b"x", "README.md": b"", "d.png": b"x"}
    place = tmp_path / ("set.tar" if in_tar else "set")
    write_tar(place, files) if in_tar else write_files(place, files)
    found, joint = opened(place), ":" if in_tar else "/"
    assert found.without_caption == (f"{place}{joint}d.png",)
    assert found.unread == (f"{place}{joint}b.heic (.heic: not read)", f"{place}{joint}c (no suffix: not read)")


def test_blank_captions_are_left_out_by_name(tmp_path: Path) -> None:
    images = [{"bytes": picture(i), "path": None} for i in range(4)]
    table = pa.table({"image": images, "text": ["zero", None, "  ", "three"]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    found = opened(tmp_path)
    assert by_caption(found) == {"zero": picture(0), "three": picture(3)}
    assert found.without_caption == tuple(
        f"{tmp_path}/a.parquet row group {group} row {row}" for group, row in ((0, 1), (1, 0))
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_an_image_folder_of_the_hub_is_read_by_its_split_for_training(tmp_path: Path, suffix: str) -> None:
    write_files(tmp_path, {"train/x/1.png": b"1", "train/2.png": b"2", "train/3.png": b"3", "test/1.png": b"t"})
    write_table(tmp_path / "train" / f"metadata{suffix}", [("x/1.png", 'one, "a" line\nand another'), ("2.png", "two")])
    write_table(tmp_path / "test" / f"metadata{suffix}", [("1.png", "held out")])
    (tmp_path / ".gitattributes").write_text("*.png filter=lfs")
    (tmp_path / "README.md").write_text("a card")
    found = opened(tmp_path)
    assert by_caption(found) == {'one, "a" line\nand another': b"1", "two": b"2"}
    assert set(found.unread) == {
        f"{tmp_path}/train/3.png (in no metadata)",
        f"{tmp_path}/test/1.png (split test)",
        f"{tmp_path}/test/metadata{suffix} (split test)",
    }


def test_shards_of_the_hub_are_read_by_their_split_for_training(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    names = ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001")
    for i, name in enumerate(names):
        table = pa.table({"image": [{"bytes": picture(i), "path": None}], "text": [name]})
        pq.write_table(table, tmp_path / "data" / f"{name}.parquet")
    found = opened(tmp_path)
    assert by_caption(found) == {names[0]: picture(0), names[1]: picture(1)}
    assert found.unread == (f"{tmp_path}/data/{names[2]}.parquet (split validation)",)


def test_without_a_split_for_training_all_are_read(tmp_path: Path) -> None:
    write_files(tmp_path, {"test/a.png": b"1", "test/a.txt": b"one", "test/b/c.png": b"2", "test/b/c.txt": b"two"})
    assert by_caption(opened(tmp_path)) == {"one": b"1", "two": b"2"}


def test_what_lies_beside_shards_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.TAR", {"a.png": b"1", "a.txt": b"one"})
    write_files(tmp_path, {"00000.parquet": b"its table", "00000_stats.json": b"{}", "z.png": b"x", "z.txt": b"z"})
    (tmp_path / "other.parquet").write_bytes(b"x")
    found = opened(tmp_path)
    assert by_caption(found) == {"one": b"1"}
    assert found.unread == (f"{tmp_path}/other.parquet (beside tar shards)", f"{tmp_path}/z.png (beside tar shards)")
