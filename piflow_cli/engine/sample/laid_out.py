"""Pictures of a published set of prompts on disk, laid out as its scorer wants them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from piflow_cli.data.asked import Asked
from piflow_cli.data.published.entry import Entry, Layout, PublishedSet
from piflow_cli.engine.processes.together import Together
from piflow_cli.errors import DataError, StorageError
from piflow_cli.io.files import check_folder, write_atomic

if TYPE_CHECKING:
    from piflow_cli.engine.sample.job import Drawn, SampleJob


@dataclass(frozen=True)
class LaidOutResult:
    """What was drawn.

    Args:
        paths: of all files, in the order of the prompts.
        pictures, prompts: how many.
        network_s, policy_s: wall time in the network and in the policy's rollouts, of all processes together.
    """

    paths: list[Path]
    pictures: int
    prompts: int
    network_s: float
    policy_s: float


@dataclass
class LaidOut:
    """Where the pictures of a published set go; those of a prompt are written once they are all drawn.

    Args:
        out: folder, made if need be.
        published: the set.
        entries: its prompts, all of them in their order.

    Raises:
        DataError: the set has no scorer whose layout is known.
        StorageError: `out` cannot be written.
    """

    out: Path
    published: PublishedSet
    entries: list[Entry]
    paths: list[Path] = field(default_factory=list, init=False)
    _drawn: list[Drawn] = field(default_factory=list, init=False)
    _written: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.published.layout is None:
            raise DataError(f"{self.published.name} has no scorer of its own, and so no layout: leave out --layout")
        self.layout: Layout = self.published.layout
        check_folder(self.out)

    @property
    def asked(self) -> list[Asked]:
        """What to draw, in the order of the set."""
        return [Asked(entry.prompt) for entry in self.entries]

    @property
    def usual(self) -> int:
        """Pictures of a prompt where nobody says how many."""
        return self.layout.pictures[0]

    def expect(self, job: SampleJob) -> None:
        """Get ready for the pictures of a job.

        Raises:
            DataError: a number of pictures of a prompt, or a size, that the scorer does not take.
            StorageError: a file that would be written is there.
        """
        self._each, self._model = job.pictures_a_prompt, job.artist.name
        if self._each not in self.layout.pictures:
            allowed = ", ".join(map(str, self.layout.pictures[:4]))
            raise DataError(
                f"{self._each} pictures of a prompt: the scorer of {self.published.name} takes {allowed}. Leave out "
                "--num-images and --seeds"
            )
        if job.frames > 1:
            raise DataError(
                f"the scorer of {self.published.name} takes pictures, and videos of {job.frames} frames are asked for: "
                "pass --frames 1"
            )
        width, height = job.size_px
        if self.layout.square and width != height:
            raise DataError(
                f"the scorer of {self.published.name} cuts its sheets into squares, and pictures have "
                f"{width}x{height}: pass --width and --height of one size"
            )
        nothing = [Image.new("RGB", (1, 1))] * self._each  # for the names alone
        for entry in self.entries:
            for name in self.layout.files(entry, nothing, self._model):
                if (self.out / name).exists():
                    raise StorageError(f"{self.out / name} exists, and is not written over: name another folder")

    def add(self, drawn: Drawn) -> None:
        """Keep a picture, and write those of its prompt where it is the last one.

        Raises:
            StorageError: they cannot be written.
        """
        self._drawn.append(drawn)
        if len(self._drawn) < self._each:
            return
        pictures = [picture.image for picture in self._drawn]
        for name, content in self.layout.files(self.entries[self._written], pictures, self._model).items():
            path = self.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
            self.paths.append(path)
        self._drawn.clear()
        self._written += 1


def draw_laid_out(
    job: SampleJob, gallery: LaidOut, *, together: Together, on_progress: Callable[[int, int], None]
) -> LaidOutResult:
    """Draw a set in portions of whole batches and whole prompts, of which one at a time is in memory.

    Args:
        job: all of it.
        gallery: where it goes, which expects it.
        together, on_progress: as `SampleJob.run`.

    Raises:
        SamplingError, StorageError: as `SampleJob.run` and `LaidOut.add`.
    """
    portion = math.lcm(job.batch_size * together.num_processes, job.pictures_a_prompt)
    nfe, total = job.artist.settings.nfe, len(job.wanted)
    network_s = policy_s = 0.0
    for start in range(0, total, portion):

        def report(done: int, _portion: int, start: int = start) -> None:
            on_progress(start * nfe + done, total * nfe)

        part = replace(job, wanted=job.wanted[start : start + portion])
        result = part.run(together=together, on_progress=report, on_picture=gallery.add)
        network_s, policy_s = network_s + result.network_s, policy_s + result.policy_s
    return LaidOutResult(gallery.paths, total, len(gallery.entries), network_s, policy_s)
