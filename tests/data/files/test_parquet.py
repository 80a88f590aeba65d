"""Parquet gives single pictures by row, and says what is missing."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from piflow_cli.data.files.parquet import ParquetPictures
from piflow_cli.errors import DataError

CONTENTS = [bytes([i]) * (i + 1) for i in range(7)]


def write(path: Path, contents: list[bytes], *, as_struct: bool) -> Path:
    values = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(contents)] if as_struct else contents
    pq.write_table(pa.table({"image": values}), path, row_group_size=2)
    return path


@pytest.mark.parametrize("as_struct", [False, True])
def test_rows_are_found_across_groups_and_files(tmp_path: Path, as_struct: bool) -> None:
    paths = [
        write(tmp_path / name, part, as_struct=as_struct) for name, part in (("a", CONTENTS[:3]), ("b", CONTENTS[3:]))
    ]
    pictures = ParquetPictures.open(paths, "image")
    assert [pictures.content(i) for i in (6, 0, 3, 2, 1, 5, 4)] == [CONTENTS[i] for i in (6, 0, 3, 2, 1, 5, 4)]
    assert pictures.name(5) == f"{tmp_path / 'b'} row group 1 row 0"


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", CONTENTS, as_struct=False)
    with pytest.raises(DataError, match=r"has no column 'jpg'; it has 'image'.*data.image_column"):
        ParquetPictures.open([path], "jpg")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from piflow_cli.data.files.prompts import read_prompts\n"
        f"read_prompts({str(write(tmp_path / 'a.parquet', CONTENTS, as_struct=False))!r})"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: reading" in process.stderr
    assert "needs pyarrow: pip install 'piflow[data]'" in process.stderr
    assert "torch" not in process.stderr
