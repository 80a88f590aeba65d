"""Tar shards, to their last byte."""

import io
import tarfile
from pathlib import Path

import pytest

from piflow_cli.data.files.tars import read_tar
from piflow_cli.errors import DataError


def test_a_tar_that_is_cut_anywhere_is_refused_or_named(tmp_path: Path) -> None:
    """Members of one block of header and one of content; the end is two blocks of zeros, and more to fill a record."""
    path = tmp_path / "one.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in {"a.png": b"1", "a.txt": b"one", "b.png": b"2", "b.txt": b"two"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    whole, members = path.read_bytes(), 8 * 512
    for size in (size for size in range(100, members + 1024, 206) if size % 512):
        path.write_bytes(whole[:size])
        if size >= members + 512:
            assert read_tar(path, None).captions == ["one", "two"]
            continue
        with pytest.raises(DataError, match="has to be whole"):
            read_tar(path, None)
    for size in (1024, 2048, members):
        path.write_bytes(whole[:size])
        assert read_tar(path, None).unread == [f"{path} (ends without the mark of an end: it may be cut short)"]
    path.write_bytes(whole[:2048] + b"x" * 512 + whole[2560:])
    with pytest.raises(DataError, match="what follows its first 2,048 bytes is no member"):
        read_tar(path, None)
