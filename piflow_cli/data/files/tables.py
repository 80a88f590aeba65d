"""Tables of comma-separated values whose first line names the columns; a cell in quotes may hold line breaks."""

import csv
from collections.abc import Iterator
from pathlib import Path

from piflow_cli.errors import DataError
from piflow_cli.io.bounds import MAX_LIST_BYTES
from piflow_cli.io.regular import read_text

MAX_CELL = 1_000_000
"""Characters in a cell."""


def read_csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Every row of a .csv by its columns, and where it ends (`file:line`); None in a row is a cell that is not there.

    Raises:
        DataError: the file cannot be read, is not UTF-8, has an unclosed quotation mark, or no line of columns.
    """
    csv.field_size_limit(MAX_CELL)
    try:
        lines = read_text(path, encoding="utf-8-sig", max_bytes=MAX_LIST_BYTES).splitlines(keepends=True)
        reader = csv.DictReader(lines, strict=True)
        if not reader.fieldnames:
            raise DataError(f"{path} has no columns: its first line has to name them")
        for row in reader:
            yield f"{path}:{reader.line_num}", {name: value for name, value in row.items() if name is not None}
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}). Save the file as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as .csv: {error}") from None
