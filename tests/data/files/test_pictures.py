"""Captioned pictures come out of every layout with their own captions, and faults of a layout are named."""

import csv
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from piflow_cli.data.files.pictures import CaptionedPictures, decode_picture, open_pictures
from piflow_cli.errors import DataError

COUNT = 5
CAPTIONS = [f"a picture of grey {i} é" for i in range(COUNT)]


def picture(grey: int, *, kind: str = "PNG", size: tuple[int, int] = (12, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (grey * 40,) * 3).save(file, kind)
    return file.getvalue()


def in_metadata(root: Path) -> None:
    (root / "images").mkdir(parents=True)
    rows = [{"file_name": f"images/{i}.png", "text": text} for i, text in enumerate(CAPTIONS)]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for i in range(COUNT):
        (root / "images" / f"{i}.png").write_bytes(picture(i))


def in_folder(root: Path) -> None:
    (root / "sub").mkdir(parents=True)
    for i, text in enumerate(CAPTIONS):
        folder = root if i < 3 else root / "sub"
        (folder / f"{i}.PNG").write_bytes(picture(i))
        (folder / f"{i}.txt").write_text(text + "\n", encoding="utf-8")


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def in_tars(root: Path, *, as_json: bool = False) -> None:
    root.mkdir()
    for shard, numbers in (("b", (3, 4)), ("a", (0, 1, 2))):
        files = {}
        for i in numbers:
            content = json.dumps({"caption": CAPTIONS[i], "id": i}) if as_json else CAPTIONS[i]
            files[f"d/{i}.{'json' if as_json else 'txt'}"] = content.encode()
            files[f"d/{i}.png"] = picture(i)
        write_tar(root / f"{shard}.tar", files)


def in_json_tars(root: Path) -> None:
    in_tars(root, as_json=True)


def in_parquet(root: Path) -> None:
    root.mkdir()
    for name, numbers in (("b", (3, 4)), ("a", (0, 1, 2))):
        images = [{"bytes": picture(i), "path": None} for i in numbers]
        table = pa.table({"image": images, "caption": [CAPTIONS[i] for i in numbers]})
        pq.write_table(table, root / f"{name}.parquet", row_group_size=2)


def opened(root: Path, *, column: str | None = None) -> CaptionedPictures:
    return open_pictures(root, column=column, image_column="image")


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


def write_files(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def by_caption(found: CaptionedPictures) -> dict[str, bytes]:
    return {text: found.pictures.content(row) for row, text in enumerate(found.captions)}


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


def write_table(path: Path, rows: list[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"file_name": name, "text": text}) for name, text in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([("file_name", "text"), *rows])
    else:
        pq.write_table(pa.table({"file_name": [n for n, _ in rows], "text": [t for _, t in rows]}), path)


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_name,text\na.png,one, two\n", "metadata.csv:2 has another number of cells"),
        ("file_name,text\na.png\n", "metadata.csv:2 has another number of cells"),
        ("file_name,text\n,one\n", "metadata.csv:2 has no text in 'file_name'"),
        ("name,text\na.png,one\n", "metadata.csv:2 has no text in 'file_name'; it has 'name', 'text'"),
        ('file_name,text\na.png,"one\n', r"metadata.csv:\d cannot be read as CSV"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_devices_and_pipes_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    write_table(tmp_path / "metadata.jsonl", [("/dev/zero", "a device"), ("pipe.png", "a pipe"), (".", "a folder")])
    found = opened(tmp_path)
    for row, kind in enumerate(("a device", "a pipe", "a folder")):
        with pytest.raises(DataError, match=f"is no regular file but {kind}"):
            found.pictures.content(row)
    assert found.unread == (f"{tmp_path}/pipe.png (no regular file)",)


def test_a_caption_of_any_size_is_not_read(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": b"1"})
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match=r"a.txt has 1048576 MB; up to 1 MB are read"):
        opened(tmp_path)


def test_links_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    write_files(tmp_path / "elsewhere", {"a.png": b"1", "a.txt": b"one"})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "set" / "zero.png").symlink_to("/dev/zero")
    found = opened(tmp_path / "set")
    assert by_caption(found) == {"one": b"1"}
    assert found.unread == (
        f"{tmp_path}/set/gone.png (a link to nothing)",
        f"{tmp_path}/set/zero.png (no regular file)",
    )


def test_hard_links_in_a_tar_are_pictures_and_other_links_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "one.tar", "w") as tar:
        for name, content in {"./a.png": b"1", "./a.txt": b"one", "./b.txt": b"two", "./c.txt": b"three"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind in (("./b.png", tarfile.LNKTYPE), ("./c.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "./a.png"
            tar.addfile(info)
    found = opened(tmp_path / "one.tar")
    assert by_caption(found) == {"one": b"1", "two": b"1"}
    assert found.unread == (f"{tmp_path}/one.tar:c.png (no plain file of the tar)",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "set has no pictures with captions"),
        ({"a.png": b""}, "set has no pictures with captions"),
        ({"a.png": b"", "a.txt": b"\xff"}, r"caption of .*a.txt is not UTF-8"),
        ({"metadata.jsonl": b'{"text": "a"}'}, r"metadata.jsonl:1 has no text in 'file_name'; it has 'text'"),
        ({"metadata.jsonl": b'{"file_name": "a.png", "title": "a"}'}, r"metadata.jsonl:1 has no column 'prompt'"),
        ({"metadata.jsonl": b""}, "set has no pictures with captions"),
        ({"a.tar": b"not a tar at all"}, r"a.tar cannot be read as a tar"),
        ({"a.parquet": b"PAR1"}, r"a.parquet cannot be read as parquet"),
    ],
)
def test_bad_layouts_are_named(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    (tmp_path / "set").mkdir()
    for name, content in files.items():
        (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "set")


def test_a_compressed_or_truncated_tar_is_refused(tmp_path: Path) -> None:
    in_tars(tmp_path / "set")
    path = tmp_path / "set" / "a.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    with pytest.raises(DataError, match=r"a.tar cannot be read as a tar.*has to be whole"):
        opened(path)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "set" / "b.tar", "x.png")
    with pytest.raises(DataError, match="not compressed"):
        opened(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"k.png": b"", "k.json": b"{"}, r"one.tar:k.json is not JSON"),
        ({"k.png": b"", "k.json": b'{"title": "a"}'}, r"one.tar:k.json has no column 'prompt'.*it has 'title'"),
        ({"k.png": b"", "k.txt": b"\xff"}, r"caption of .*one.tar:k.txt is not UTF-8"),
    ],
)
def test_bad_captions_in_a_tar_are_named(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    write_tar(tmp_path / "one.tar", files)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "one.tar")


def test_a_picture_is_scaled_to_cover_and_cropped_at_its_centre() -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = 255  # the centre third
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    centre = decode_picture(file.getvalue(), size_px=(10, 10), channels=3)
    assert centre.shape == (3, 10, 10)
    assert (centre == 1).all()
    whole = decode_picture(file.getvalue(), size_px=(30, 10), channels=1)
    assert whole.shape == (1, 10, 30)
    assert whole[0, 5].tolist() == [0.0] * 10 + [1.0] * 10 + [0.0] * 10


@pytest.mark.parametrize("size_px", [(8, 4), (4, 8), (30, 7), (7, 30), (1, 1)])
def test_any_size_comes_out_exactly(size_px: tuple[int, int]) -> None:
    picture_of = decode_picture(picture(3, size=(13, 9)), size_px=size_px, channels=3)
    assert picture_of.shape == (3, size_px[1], size_px[0])
    torch.testing.assert_close(picture_of, torch.full_like(picture_of, 120 / 255))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_usual_formats_decode(kind: str) -> None:
    assert decode_picture(picture(2, kind=kind), size_px=(8, 8), channels=3).shape == (3, 8, 8)


@pytest.mark.parametrize(
    "content", [b"", b"no picture", picture(1)[:40], picture(1)[:-30], picture(1, kind="JPEG")[:100]]
)
def test_what_does_not_decode_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_picture(content, size_px=(8, 8), channels=3)
