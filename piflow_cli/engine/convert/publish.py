"""Publishing a student: its files with a README, in a folder or on the hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from piflow_cli.engine.convert.convert import ConvertResult
from piflow_cli.engine.students.load import read_student
from piflow_cli.engine.students.model_card import model_card, read_scores
from piflow_cli.errors import DataError
from piflow_cli.formats.run import PREVIEWS
from piflow_cli.io.files import write_atomic
from piflow_cli.io.hub import HubTarget, upload
from piflow_cli.io.images import read_picture
from piflow_cli.io.pictures import png_bytes
from piflow_cli.io.texts.names import user_path

README, SHEET, BENCHMARK = "README.md", "sheet.png", "benchmark.json"


@dataclass(frozen=True)
class Publication:
    """What goes beside a student's files.

    Args:
        sheet: a picture; None is the newest preview of a run folder, if there is one.
        scores: what `piflow benchmark --json` wrote; None is benchmark.json of a run folder, if there is one.
        licence: its identifier on the hub; None says that the base's holds.
    """

    sheet: Path | None = None
    scores: Path | None = None
    licence: str | None = None

    def check(self) -> None:
        """Refuse what cannot be read, before anything is written.

        Raises:
            DataError: a sheet that is no picture, or scores that are no benchmark's.
        """
        if self.sheet is not None:
            read_picture(self.sheet)
        if self.scores is not None and read_scores(self.scores) is None:
            raise DataError(f"{self.scores} is not what piflow benchmark --json writes")


def publish(
    source: str,
    convert_to: Callable[[Path], ConvertResult],
    *,
    folder: Path | None,
    file_name: str | None,
    hub: HubTarget | None,
    publication: Publication,
) -> tuple[ConvertResult, str | None]:
    """Convert a student, write a README beside its files, and upload both where that is asked for.

    Args:
        source: what is converted: a run folder gives its newest preview and its benchmark.
        convert_to: writes the student into a folder or file that does not exist, and proves what it is asked to.
        folder: where it stays; None for what is uploaded only.
        file_name: of formats that are one file; None for folders.
        hub: where it is uploaded, None for nowhere.
        publication: what else is known.

    Returns:
        What was written, and what the hub says of it.

    Raises:
        DataError: as `Publication.check`.
        ModelError: as `convert`, or the hub cannot be reached or does not take it.
        StorageError: the folder cannot be written.
    """
    publication.check()
    with tempfile.TemporaryDirectory() as scratch:
        home = folder if folder is not None else Path(scratch) / "student"
        if file_name is not None:
            home.mkdir(parents=True)
        result = convert_to(home if file_name is None else home / file_name)
        _describe(result, home, source=source, place=hub.place if hub else str(home), publication=publication)
        return result, upload(home, hub) if hub is not None else None


def _describe(result: ConvertResult, home: Path, *, source: str, place: str, publication: Publication) -> None:
    """Write README.md, and a sheet if there is one."""
    run = user_path(source)
    sheet = publication.sheet or _newest(run / PREVIEWS)
    if sheet is not None:
        write_atomic(home / SHEET, png_bytes(read_picture(sheet)))
    stored, _ = read_student(result.path)
    text = model_card(
        stored.card,
        place=place,
        written_as=result.format,
        sheet=SHEET if sheet is not None else None,
        scores=read_scores(publication.scores or run / BENCHMARK),
        licence=publication.licence,
    )
    write_atomic(home / README, text)


def _newest(folder: Path) -> Path | None:
    """The last picture of a folder by name, None where there is none."""
    return max(folder.glob("*.png"), default=None)
