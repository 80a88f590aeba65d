"""Pictures and videos on disk: a file each as it is drawn, a labelled sheet of all, with what they are of inside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from piflow_cli.errors import DataError
from piflow_cli.io.files import check_file, check_folder, write_atomic, write_new
from piflow_cli.io.pictures import grid_picture, png_bytes, sheet_size
from piflow_cli.io.sheets.videos import VIDEO_SUFFIXES, require_writer, usual_suffix, video_bytes
from piflow_cli.io.texts.names import file_stem

if TYPE_CHECKING:
    from PIL.Image import Image

    from piflow_cli.engine.sample.job import Drawn, SampleJob, SampleResult

PICTURE_SUFFIX = ".png"
OTHER_PICTURES = {".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl"}
GRID_COLUMNS = 8
MAX_SHEET_PX = 1 << 28
"""Pixels of a sheet: 0.8 GB of memory."""
SHEET_PROMPT = 2000
"""Characters of all prompts that a sheet says of itself."""


@dataclass
class Gallery:
    """Where pictures go: each is written when it is drawn, so that what interrupts the next ones costs none.

    Args:
        out: a .png file, for one picture or a sheet; an .mp4, .webp or .gif file, for one video; else a folder, into
            which files are added without writing over any.
        grid: True writes one labelled sheet of all in place of a file each, False only the files, None both where
            there are several prompts.

    Raises:
        DataError: `out` is a picture of another kind.
        MissingExtraError: `out` is an .mp4 file, and what writes it is not installed.
        StorageError: `out` cannot be written.
    """

    out: Path
    grid: bool | None = None
    paths: list[Path] = field(default_factory=list, init=False)
    _drawn: list[Drawn] = field(default_factory=list, init=False)
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        suffix = self.out.suffix.lower()
        self.one_file = suffix in (PICTURE_SUFFIX, *VIDEO_SUFFIXES) and not os.path.isdir(self.out)
        self.one_video = self.one_file and suffix != PICTURE_SUFFIX
        if self.one_video:
            require_writer(suffix)
        if suffix in OTHER_PICTURES and not os.path.isdir(self.out):
            raise DataError(
                f"pictures are written as {PICTURE_SUFFIX}; {self.out.name} has the suffix {self.out.suffix}. Name a "
                f"{PICTURE_SUFFIX} file, or a folder."
            )
        if self.one_file:
            check_file(self.out)
        else:
            check_folder(self.out)

    def expect(self, job: SampleJob) -> None:
        """Get ready for the pictures or videos of a job.

        Raises:
            DataError: several pictures for one file without a sheet, a sheet that is too large, or a file for videos
                where pictures are drawn.
        """
        self._count, self._moving = len(job.prompts), job.frames > 1
        if self.one_video and not self._moving:
            raise DataError(f"{self.out.name} is a file for a video, and pictures are drawn: name a .png or a folder")
        if self.one_video and (self._count > 1 or self.grid):
            what = "no sheet" if self.grid else f"one video, and {self._count} are asked for"
            raise DataError(f"{self.out.name} holds {what}: name a folder, or a .png for a sheet of stills")
        self._different = len(dict.fromkeys(job.prompts)) > 1
        if self.one_file and self._count > 1 and self.grid is False:
            raise DataError(f"{self.out.name} holds one picture, and {self._count} are asked for: name a folder")
        width, height = sheet_size(job.size_px, self._count, columns=self._columns(job))
        if self._wants_sheet and width * height > MAX_SHEET_PX:
            if self.grid or self.one_file:
                raise DataError(
                    f"a sheet of {self._count} pictures would have {width} x {height} pixels, more than "
                    f"{MAX_SHEET_PX / 1e6:.0f} million: write files instead (--no-grid), or ask for fewer"
                )
            self.grid = False

    @property
    def _wants_files(self) -> bool:
        return not self.grid and not (self.one_file and self._count > 1)

    def _file_of(self, drawn: Drawn) -> tuple[str, bytes]:
        """The suffix and the content of the file of a picture or of a video."""
        if drawn.video is None or (self.one_file and not self.one_video):
            return PICTURE_SUFFIX, png_bytes(drawn.image, drawn.facts)
        suffix = self.out.suffix.lower() if self.one_video else usual_suffix()
        return suffix, video_bytes(drawn.video, suffix, drawn.facts)

    @property
    def _wants_sheet(self) -> bool:
        several = self.grid is None and self._different and not self.one_file
        return bool(self.grid) or several or (self.one_file and self._count > 1)

    def _columns(self, job: SampleJob) -> int:
        if job.frames > 1:
            return 1  # of strips
        return job.pictures_a_prompt if job.pictures_a_prompt > 1 else min(self._count, GRID_COLUMNS)

    def add(self, drawn: Drawn) -> None:
        """Write one picture or video, where pictures have files of their own.

        Raises:
            StorageError: it cannot be written.
        """
        if not self._wants_files:
            return
        suffix, content = self._file_of(drawn)
        if self.one_file:
            write_atomic(self.out, content)
            self.paths.append(self.out)
        else:
            stem = f"{file_stem(drawn.prompt)}-seed{drawn.seed}"
            self.paths.append(write_new(self.out, stem, suffix, content))

    def write_sheet(self, picture: Image, facts: dict[str, str], *, name: str) -> Path:
        """Write a sheet into the file, or into the folder by its name, and return where it is.

        Raises:
            StorageError: it cannot be written.
        """
        content = png_bytes(picture, facts)
        if not self.one_file:
            return write_new(self.out, name, PICTURE_SUFFIX, content)
        write_atomic(self.out, content)
        return self.out

    def finish(self, result: SampleResult) -> list[Path]:
        """Write the sheet, where there is to be one, and return the paths of all that was written.

        Raises:
            StorageError: it cannot be written.
        """
        if self._wants_sheet:
            self.paths.append(self.write_sheet(*_sheet(result, columns=self._columns(result)), name="grid"))
        return self.paths


def save_samples(result: SampleResult, out: Path, *, grid: bool | None = None) -> list[Path]:
    """Write pictures that were drawn without a gallery and return their paths; arguments and errors as `Gallery`."""
    gallery = Gallery(out, grid=grid)
    gallery.expect(result)
    for drawn in result.drawn:
        gallery.add(drawn)
    return gallery.finish(result)


def _sheet(result: SampleResult, *, columns: int) -> tuple:
    """One picture of all: a row a prompt where each has several, else side by side, every one with its prompt."""
    each = result.pictures_a_prompt
    if each > 1 and columns > 1:
        picture = grid_picture(result.images, columns=columns, row_labels=result.prompts[::each])
    else:
        picture = grid_picture(result.images, columns=columns, labels=result.prompts)
    return picture, result.drawn[0].facts | {"prompt": _listed(result.prompts)}


def _listed(prompts: Sequence[str]) -> str:
    text = ", ".join(dict.fromkeys(prompts))
    return text if len(text) <= SHEET_PROMPT else f"{text[:SHEET_PROMPT]}..."
