"""What a person asks for on the page, and the command lines that draw the very same files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from piflow_cli.engine.sample.beside import TEACHER_NAME, Other
from piflow_cli.engine.sample.open import Dtype, Offload


@dataclass(frozen=True)
class Opening:
    """How models are opened, all of a page alike; as `open_student`."""

    base: str | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    quantization: str | None = None
    offload: Offload = "none"

    def options(self, *, of_teacher: bool) -> Iterator[tuple[str, str]]:
        """Options of `piflow sample` for what is not as usual; teachers are neither quantised nor moved."""
        if self.base is not None:
            yield "--base", self.base
        if self.device != "auto":
            yield "--device", self.device
        if self.dtype != "auto":
            yield "--dtype", self.dtype
        if self.quantization is not None and not of_teacher:
            yield "--quantize", self.quantization
        if self.offload != "none" and not of_teacher:
            yield "--offload", self.offload


@dataclass(frozen=True)
class Wanted:
    """One request; what is None is as the model was trained, or by the size of pictures.

    Args:
        prompts: what to draw.
        model: who draws, as `open_student` takes it.
        num_images, seed: pictures a prompt, and the seed of the first.
        nfe, temperature, h, loras: of the model.
        width, height, frames, batch_size: of all who draw.
        others: who draws beside it, from the same noise, as they were trained.
        references: files of the pictures that every prompt is about, for models that edit.
    """

    prompts: tuple[str, ...]
    model: str
    num_images: int = 1
    seed: int = 0
    nfe: int | None = None
    temperature: float | Literal["auto"] | None = None
    h: float | None = None
    loras: tuple[tuple[str, float], ...] = ()
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    batch_size: int | None = None
    others: tuple[Other, ...] = ()
    references: tuple[Path, ...] = ()

    def own_command(self, opening: Opening) -> str:
        """The command that draws the model's pictures into files of their own."""
        return _line([("--model", self.model), *self._changes(), *self._shared()], self._files(), opening, self.prompts)

    def command_of(self, other: Other, opening: Opening) -> str:
        """The command that draws the pictures of another of the row."""
        if other.source is not None:
            options = [("--model", other.source), *self._shared()]
            return _line(options, self._files(), opening, self.prompts)
        options = [("--model", self.model), *self._shared()]
        options += [] if other.steps is None else [("--steps", str(other.steps))]
        return _line(options, ["--teacher", *self._files()], opening, self.prompts, of_teacher=True)

    def sheet_command(self, opening: Opening) -> str | None:
        """The command that draws the sheet of all; None where there is none, or where no one command draws it."""
        if not self.others or self.loras or opening.offload != "none":
            return None
        beside = ",".join(_name(other) for other in self.others)
        options = [("--model", self.model), *self._changes(), *self._shared(), ("--beside", beside)]
        return _line(options, [], opening, self.prompts)

    def _changes(self) -> Iterator[tuple[str, str]]:
        """What is asked of the model alone."""
        for name, value in (("--nfe", self.nfe), ("--temperature", self.temperature), ("--h", self.h)):
            if value is not None:
                yield name, str(value)
        for source, weight in self.loras:
            yield "--lora", f"{source}={weight}"

    def _shared(self) -> Iterator[tuple[str, str]]:
        """What is asked of all."""
        yield "--seed", str(self.seed)
        if self.num_images != 1:
            yield "--num-images", str(self.num_images)
        for path in self.references:
            yield "--image", str(path)
        sizes = (("--width", self.width), ("--height", self.height), ("--frames", self.frames))
        for name, value in (*sizes, ("--batch-size", self.batch_size)):
            if value is not None:
                yield name, str(value)

    def _files(self) -> list[str]:
        """The flag that leaves out a sheet, which several prompts would have."""
        return ["--no-grid"] if len(set(self.prompts)) > 1 else []


def _name(other: Other) -> str:
    """As `parse_beside` reads it."""
    if other.source is not None:
        return other.source
    return TEACHER_NAME if other.steps is None else f"{TEACHER_NAME}@{other.steps}"


def _line(
    options: list[tuple[str, str]],
    flags: list[str],
    opening: Opening,
    prompts: tuple[str, ...],
    *,
    of_teacher: bool = False,
) -> str:
    """A command for a shell; values and prompts that begin with a dash are kept from being read as options."""
    pairs = [*options, *opening.options(of_teacher=of_teacher)]
    words = [word for name, value in pairs for word in ([f"{name}={value}"] if value[:1] == "-" else [name, value])]
    end = ["--"] if any(prompt.startswith("-") for prompt in prompts) else []
    return shlex.join(["piflow", "sample", *words, *flags, *end, *prompts])
