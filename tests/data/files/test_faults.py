"""Faults of captioned pictures are named: bad tables and captions, links, devices, and shards that are not whole."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from captioned_sets import by_caption, in_tars, opened, write_files, write_table, write_tar

from piflow_cli.errors import DataError


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
