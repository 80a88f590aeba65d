"""Models that stay open from one drawing to the next, and the files that they draw."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from piflow_cli.data.asked import Asked
from piflow_cli.engine.sample.beside import Lineup, sheet
from piflow_cli.engine.sample.check import check_request
from piflow_cli.engine.sample.early import EarlyCheck
from piflow_cli.engine.sample.open import OpenTeacher, check_choices, check_loras, open_student, open_teacher
from piflow_cli.engine.sample.request import TextRequest
from piflow_cli.engine.sample.sample import about, prepare
from piflow_cli.engine.sample.save import Gallery
from piflow_cli.engine.students.device import resolve_device
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.engine.students.shared import Bases
from piflow_cli.engine.studio.wanted import Opening, Wanted
from piflow_cli.errors import DataError
from piflow_cli.io.bounds import MAX_PICTURE_BYTES
from piflow_cli.io.files import writable_folder, write_atomic
from piflow_cli.io.regular import read_regular

if TYPE_CHECKING:
    from piflow_cli.engine.sample.job import SampleJob, SampleResult

MAX_ON_PAGE = 64
"""Pictures of one drawing, of all who draw: as many as a page shows well."""
REFERENCES = "references"
"""The folder, among the files that are drawn, of the pictures that they are about."""
Key = tuple[str, bool, tuple[tuple[str, float], ...]]
"""Source, whether its teacher is meant, and style LoRAs."""


@dataclass(frozen=True)
class Drawing:
    """What came of a request.

    Args:
        results: of the model, and of each beside it.
        paths: files of each of these.
        commands: the command that draws the files of each again.
        sheet: the file of all beside each other, where there are others.
        sheet_command: what draws it again, where one command does.
        warnings: what a user should know.
    """

    results: list[SampleResult]
    paths: list[list[Path]]
    commands: list[str]
    sheet: Path | None
    sheet_command: str | None
    warnings: list[str]


@dataclass
class Studio:
    """Draws requests one at a time. Models of the last request stay open; others are let go of.

    Args:
        opening: how models are opened.
        out: the folder that files are added to.

    Raises:
        StorageError: `out` cannot be written.
        ModelError, DeviceError: there is no such precision, way to offload, or device.
    """

    opening: Opening
    out: Path
    _open: dict[Key, LoadedStudent | OpenTeacher] = field(default_factory=dict, init=False)
    _bases: Bases = field(default_factory=Bases, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        check_choices(dtype=self.opening.dtype, offload=self.opening.offload)
        resolve_device(self.opening.device)
        Gallery(self.out)

    def draw(self, wanted: Wanted, *, on_progress: Callable[[int, int], None] | None = None) -> Drawing:
        """Draw a request and write its files; on_progress is as `Lineup.run`.

        Raises:
            DataError: a prompt, class, number or size that cannot be drawn, too many pictures for a page, or a
                reference picture that cannot be read or that a model does not take.
            PolicyError, SamplingError, ModelError, DeviceError, MissingExtraError: as `sample` and `open_student`.
            StorageError: a file cannot be written.
        """
        counts = {"num_images": wanted.num_images, "seed": wanted.seed, "seeds": None}
        asked = about(wanted.prompts, wanted.references)
        check_request(asked, **counts, batch_size=wanted.batch_size)
        number = len(asked) * wanted.num_images * (1 + len(wanted.others))
        if number > MAX_ON_PAGE:
            raise DataError(
                f"{number} pictures at once; a page shows at most {MAX_ON_PAGE}. Ask for fewer, or draw them by "
                "piflow sample."
            )
        check_loras(wanted.loras)
        with self._lock:
            lineup = Lineup(self._jobs(wanted, asked, counts))
            wanted = replace(wanted, references=tuple(map(self._kept, wanted.references)))
            results = lineup.run(on_progress=on_progress)
        commands = [wanted.own_command(self.opening)]
        commands += [wanted.command_of(other, self.opening) for other in wanted.others]
        several = len(results) > 1
        return Drawing(
            results=results,
            paths=[self._write(job, result) for job, result in zip(lineup.jobs, results, strict=True)],
            commands=commands,
            sheet=Gallery(self.out).write_sheet(*sheet(results), name="beside") if several else None,
            sheet_command=wanted.sheet_command(self.opening),
            warnings=lineup.warnings if several else lineup.jobs[0].warnings,
        )

    def _kept(self, reference: Path) -> Path:
        """A copy of a reference picture beside what is drawn, by its content: an upload is gone when the page ends."""
        content = read_regular(reference, max_bytes=MAX_PICTURE_BYTES)
        folder = self.out.resolve() / REFERENCES / hashlib.sha256(content).hexdigest()[:12]
        copy = writable_folder(folder) / reference.name
        if not copy.exists():
            write_atomic(copy, content)
        return copy

    def _write(self, job: SampleJob, result: SampleResult) -> list[Path]:
        gallery = Gallery(self.out, grid=False)
        gallery.expect(job)
        for drawn in result.drawn:
            gallery.add(drawn)
        return gallery.finish(result)

    def _jobs(self, wanted: Wanted, asked: list[Asked], counts: dict[str, int | None]) -> list[SampleJob]:
        """The job of the model, and of each beside it."""
        request = TextRequest(wanted.width, wanted.height, frames=wanted.frames)
        changes = {"nfe": wanted.nfe, "temperature": wanted.temperature, "h": wanted.h}
        own = (wanted.model, False, wanted.loras)
        keys = [own, *((other.source or wanted.model, other.source is None, ()) for other in wanted.others)]
        self._let_go(set(keys))
        pictures = partial(prepare, asked, request=request, batch_size=wanted.batch_size, **counts)
        jobs = [pictures(model=self._opened(own, EarlyCheck(asked, request, changes)), **changes)]
        for key, other in zip(keys[1:], wanted.others, strict=True):
            early = EarlyCheck(asked, request, steps=other.steps)
            jobs.append(pictures(model=self._opened(key, early), steps=other.steps))
        return jobs

    def _let_go(self, needed: set[Key]) -> None:
        """Forget models that are not needed now, and the bases below them where none of them is."""
        self._open = {key: model for key, model in self._open.items() if key in needed}
        if not self._open:
            self._bases = Bases()

    def _opened(self, key: Key, early: EarlyCheck) -> LoadedStudent | OpenTeacher:
        """A model, opened where it is not yet."""
        if key not in self._open:
            source, is_teacher, loras = key
            how = self.opening
            bases = None if loras or how.offload != "none" else self._bases
            options = {"base": how.base, "device": how.device, "dtype": how.dtype, "bases": bases, "early": early}
            if is_teacher:
                self._open[key] = open_teacher(source, **options)
            else:
                student = {"quantization": how.quantization, "offload": how.offload, "loras": loras}
                self._open[key] = open_student(source, **student, **options)
        return self._open[key]
