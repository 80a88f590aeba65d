"""`metadata.jsonl`, `.csv` or `.parquet`, as the hub's image folders have it: file names and captions."""

import csv
from collections.abc import Iterator
from pathlib import Path

from piflow_cli.data.files.parquet import open_parquet
from piflow_cli.data.files.prompts import read_json_lines, text_of
from piflow_cli.data.files.references import names_of
from piflow_cli.errors import DataError
from piflow_cli.io.regular import require_regular

NAMES = frozenset({"metadata.jsonl", "metadata.csv", "metadata.parquet"})
FILE_NAME = "file_name"


def read_metadata(
    path: Path, column: str | None, *, references: str | None = None
) -> Iterator[tuple[Path, str, list[Path]]]:
    """Pictures, their captions and their reference pictures; names are relative to the folder of the file.

    Args:
        path: one of `NAMES`.
        column: field of the caption; None takes prompt, caption or text.
        references: field of the reference pictures; None reads none.

    Raises:
        DataError: damaged, or a row without a file name or without the caption's field.
        MissingExtraError: a parquet without pyarrow.
    """
    reader = {".jsonl": read_json_lines, ".csv": _csv_rows, ".parquet": _parquet_rows}[path.suffix.lower()]
    for where, row in reader(path):
        text = text_of(row, column, where=where)
        if not isinstance(row.get(FILE_NAME), str) or not row[FILE_NAME] or "\0" in row[FILE_NAME]:
            raise DataError(f"{where} has no text in {FILE_NAME!r}; it has {', '.join(map(repr, row))}")
        value = row.get(references) if references is not None else None
        names = names_of(value, where=f"{where}, field {references!r},")
        yield path.parent / row[FILE_NAME], text, [path.parent / name for name in names]


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every row of a table whose first line names the columns, and where it stands."""
    try:
        require_regular(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, restkey="", strict=True)
            for row in rows:
                where = f"{path}:{rows.line_num}"
                if "" in row or None in row.values():
                    raise DataError(
                        f"{where} has another number of cells than the first line has columns; put texts with commas "
                        "into quotes"
                    )
                yield where, row
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}). Save the file as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num} cannot be read as CSV: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Every row of a table, a few thousand in memory at a time."""
    with open_parquet(path) as file:
        number = 0
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield f"{path} row {number}", row
                number += 1
