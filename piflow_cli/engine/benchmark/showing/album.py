"""The first pictures of every row of a benchmark, kept to be looked at side by side."""
# B batch, C channels, F frames, H, W size in pixels.

from __future__ import annotations

from PIL import Image
from torch import Tensor

from piflow_cli.engine.benchmark.questions import Questions
from piflow_cli.engine.benchmark.samplers import Sampler
from piflow_cli.io.pictures import to_pictures
from piflow_cli.io.sheets.comparison import Row, comparison_sheet, rows_about
from piflow_cli.io.sheets.videos import strip_frames

VIDEO_SHARE = 2
"""Pictures in whose place a video is kept."""


class Album:
    """Pictures of rows, each row's of the same noise, and of the same classes or prompts.

    Args:
        count: pictures kept of each row; of videos half as many, each as a few stills.
    """

    def __init__(self, count: int = 8) -> None:
        self.count = count
        self._labels: list[str] = []
        self._about: list[Image.Image | None] = []
        self._rows: dict[Sampler, list[Image.Image]] = {}

    def count_of(self, frames: int) -> int:
        """How many pictures of each row are kept, or videos of so many frames."""
        return self.count if frames == 1 else max(1, self.count // VIDEO_SHARE)

    def take(self, sampler: Sampler, pictures: Tensor, *, start: int, questions: Questions) -> None:
        """Keep what is still wanted of a row's batch.

        Args:
            sampler: whose row it is.
            pictures: (B, C, H, W), or videos (B, C, F, H, W), in [0, 1].
            start: number of the first of them.
            questions: what the row was asked.
        """
        kept = self._rows.setdefault(sampler, [])
        frames = pictures.shape[2] if pictures.ndim == 5 else 1
        shown = strip_frames(frames)
        wanted = pictures[: self.count_of(frames) - len(kept) // len(shown)]
        if len(wanted) and len(self._labels) == len(kept):  # the first row that comes so far
            about = [next(iter(row), None) for row in questions.pictures(start, start + len(wanted))]
            self._about += [picture for picture in about for _ in shown]
            said = _labels(sampler, questions, start, start + len(wanted))
            self._labels += said if frames == 1 else [f"{n + 1}/{frames} {label}" for label in said for n in shown]
        if frames > 1:
            wanted = wanted[:, :, shown].transpose(1, 2).flatten(0, 1)  # a column a still
        kept += to_pictures(wanted.cpu())

    def sheet(self) -> Image.Image | None:
        """A row of pictures for each row of the table: students, then teachers by their evaluations; None of none.

        Above them are the first reference pictures, where prompts are about some.
        """
        rows = sorted(self._rows.items(), key=lambda item: (item[0].kind != "student", _effort(item[0])))
        if not self._labels:
            return None
        drawn = [Row(_names(sampler), pictures) for sampler, pictures in rows]
        about = rows_about(self._about, size_px=drawn[0].pictures[0].size)
        return comparison_sheet(self._labels, [*about, *drawn])


def _effort(sampler: Sampler) -> int:
    """What rows of teachers are ordered by; students stay as they are."""
    return sampler.nfe if sampler.kind == "teacher" else 0


def _names(sampler: Sampler) -> tuple[str, ...]:
    noise = (f"h {sampler.h:g}",) if sampler.h else ()
    way = (sampler.quantization,) if sampler.quantization != "none" else ()
    return (sampler.model, f"{sampler.method}, {sampler.nfe} NFE", *noise, *way)


def _labels(sampler: Sampler, questions: Questions, start: int, stop: int) -> list[str]:
    """What pictures start to stop - 1 were to show: prompts, or names of classes."""
    prompts = questions.prompts(start, stop)
    if prompts is not None:
        return prompts
    numbers = questions.numbers[start:stop].tolist()
    space = sampler.space
    names = space.examples(space.num_classes) if space.classes_are_named else []
    return [names[number] if number < len(names) else f"class {number}" for number in numbers]
