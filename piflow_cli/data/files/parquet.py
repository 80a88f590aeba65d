"""Parquet files: one column of texts, and single pictures by row. The only place that imports pyarrow."""

import bisect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from piflow_cli.errors import DataError, MissingExtraError
from piflow_cli.io.bounds import MAX_ROW_GROUP_BYTES
from piflow_cli.io.regular import require_regular

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 8192


@contextmanager
def open_parquet(path: Path) -> Iterator["ParquetFile"]:
    """An open parquet file.

    Raises:
        DataError: damaged, or no parquet.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtraError(f"reading {path} needs pyarrow: pip install 'piflow[data]'") from None
    try:
        require_regular(path)
        with ParquetFile(path) as file:
            yield file
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as parquet: {error}. Is it whole? Download or write it again."
        ) from None


def parquet_texts(path: Path, pick: Callable[[Iterable[str]], str]) -> Iterator[object]:
    """The values of one column in order, a few thousand in memory at a time.

    Args:
        pick: chooses the column among the names there are.

    Raises:
        DataError: damaged, or no parquet.
        MissingExtraError: pyarrow is not installed.
    """
    with open_parquet(path) as file:
        column = pick(file.schema_arrow.names)
        for batch in file.iter_batches(BATCH_ROWS, columns=[column]):
            yield from batch.column(0).to_pylist()


@dataclass(frozen=True)
class ParquetPictures:
    """Encoded pictures by row of several files; reading one reads its row group, so that small groups serve best.

    Args:
        groups: file and index of every row group, in order.
        ends: running count of rows after each group.
        column: holds the bytes, or a struct with the field `bytes` as the hub's image data sets do.
    """

    groups: tuple[tuple[Path, int], ...]
    ends: tuple[int, ...]
    column: str

    @classmethod
    def open(cls, paths: Iterable[Path], column: str) -> "ParquetPictures":
        """The row groups of some files.

        Raises:
            DataError: damaged, or without the column.
            MissingExtraError: pyarrow is not installed.
        """
        groups, counts = [], []
        for path in paths:
            with open_parquet(path) as file:
                if column not in file.schema_arrow.names:
                    there = ", ".join(map(repr, file.schema_arrow.names))
                    raise DataError(
                        f"{path} has no column {column!r}; it has {there}. Name the one with the pictures' bytes in "
                        "data.image_column."
                    )
                for group in range(file.num_row_groups):
                    _check_group(path, file, group, column=column)
                    groups.append((path, group))
                    counts.append(file.metadata.row_group(group).num_rows)
        return cls(groups=tuple(groups), ends=tuple(accumulate(counts)), column=column)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def name(self, index: int) -> str:
        """File and row, for messages."""
        group, row = self._place(index)
        path, number = self.groups[group]
        return f"{path} row group {number} row {row}"

    def content(self, index: int) -> bytes:
        """The encoded picture of a row.

        Raises:
            DataError: the file is damaged, or the row holds no bytes.
        """
        group, row = self._place(index)
        path, number = self.groups[group]
        with open_parquet(path) as file:
            rows = file.read_row_group(number, columns=[self.column], use_threads=False).column(0)
            if row >= len(rows):
                raise DataError(f"{path} row group {number} has {len(rows)} rows, fewer than the file says")
            value = rows[row].as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise DataError(f"the row holds no bytes but {type(value).__name__}")
        return value

    def _place(self, index: int) -> tuple[int, int]:
        group = bisect.bisect_right(self.ends, index)
        return group, index - (self.ends[group - 1] if group else 0)


def _check_group(path: Path, file: "ParquetFile", number: int, *, column: str) -> None:
    """Raise DataError where a row group's pictures are too many to be read at once."""
    group = file.metadata.row_group(number)
    columns = map(group.column, range(group.num_columns))
    size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == column)
    if size > MAX_ROW_GROUP_BYTES:
        raise DataError(
            f"{path} row group {number} has {size / 2**30:.1f} GB in the column {column!r}, which is read as a whole "
            f"for each picture; up to {MAX_ROW_GROUP_BYTES / 2**30:.0f} GB are. Write it again with fewer rows a group."
        )
