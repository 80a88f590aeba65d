"""The fields of the tab that draws, and the request that they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import gradio as gr

from piflow_cli.cli.sampling.options import parse_lora, parse_temperature
from piflow_cli.errors import DataError

if TYPE_CHECKING:
    from piflow_cli.engine.studio.wanted import Wanted

N = TypeVar("N", int, float)
TRAINED = "as trained"


class Form(NamedTuple):
    """What the fields hold, in the order that they are handed over; an empty one is None or an empty text."""

    prompts: str | None
    model: str | None
    nfe: str | None
    seed: str | None
    num_images: str | None
    beside: list[str] | None
    width: str | None
    height: str | None
    frames: str | None
    temperature: str | None
    h: str | None
    batch_size: str | None
    loras: str | None
    references: list[str] | None

    def wanted(self) -> Wanted:
        """The request.

        Raises:
            DataError: a number that is none, no model, or nothing beside a comma.
            typer.BadParameter: a temperature or a LoRA's weight that is no number.
        """
        from piflow_cli.engine.sample.beside import parse_beside
        from piflow_cli.engine.studio.wanted import Wanted

        if not _text(self.model):
            raise DataError("name a model: an embedded student, a student or run folder, or a hub id")
        seed, number = _number(self.seed, "seed", int), _number(self.num_images, "pictures", int)
        return Wanted(
            prompts=_lines(self.prompts),
            model=_text(self.model),
            num_images=1 if number is None else number,
            seed=0 if seed is None else seed,
            nfe=_number(self.nfe, "NFE", int),
            temperature=parse_temperature(_text(self.temperature) or None),
            h=_number(self.h, "h", float),
            loras=tuple(parse_lora(line) for line in _lines(self.loras)),
            width=_number(self.width, "width", int),
            height=_number(self.height, "height", int),
            frames=_number(self.frames, "frames", int),
            batch_size=_number(self.batch_size, "pictures a pass", int),
            others=tuple(other for name in self.beside or () for other in parse_beside(name)),
            references=tuple(map(Path, self.references or ())),
        )


def fields(model: str) -> tuple[list[gr.components.Component], gr.Button]:
    """The fields, in the order of `Form`, and the button."""
    from piflow_cli.engine.students.find import embedded_students
    from piflow_cli.io.images import SUFFIXES

    names = list(embedded_students())
    prompts = gr.Textbox(
        label="Prompt",
        info="A line a prompt; of class models a name or index.",
        lines=2,
        placeholder="a cat",
        elem_id="prompt",
    )
    model_ = gr.Dropdown(
        list(dict.fromkeys([model, *names])),
        value=model,
        allow_custom_value=True,
        label="Model",
        info="Or a student or run folder, RUN@STEP, or hub id.",
        elem_id="model",
    )
    with gr.Row():
        numbers = [_field("NFE", "nfe", TRAINED), _field("Seed", "seed", "0"), _field("Pictures", "num-images", "1")]
    beside = gr.Dropdown(
        ["teacher", "teacher@4", *names],
        multiselect=True,
        allow_custom_value=True,
        label="Beside it",
        info="From the same noise: students, teacher, teacher@STEPS.",
        elem_id="beside",
    )
    with gr.Accordion("Reference pictures", open=False, elem_id="about"):
        references = gr.File(
            label="What all prompts are about, in this order; of models that edit.",
            file_count="multiple",
            file_types=sorted(SUFFIXES),
            elem_id="references",
            height=120,
        )
    button = gr.Button("Draw", variant="primary", elem_id="draw")
    with gr.Accordion("More", open=False, elem_id="more"):
        with gr.Row():
            asked = ("width", "height", "frames")  # the last one of videos
            sizes = [_field(name.capitalize(), name, TRAINED) for name in asked]
        with gr.Row():
            policy = [_field("Temperature", "temperature", "0 to 1, or auto"), _field("h", "h", TRAINED)]
            batch = _field("Pictures a pass", "batch-size", "by size")
        loras = gr.Textbox(
            label="Style LoRA",
            info="SOURCE or SOURCE=WEIGHT, a line each; text-to-image students.",
            lines=1,
            elem_id="loras",
        )
    return [prompts, model_, *numbers, beside, *sizes, *policy, batch, loras, references], button


def _field(label: str, name: str, placeholder: str) -> gr.Textbox:
    """A field for a number: a text, so that an empty one is none and a long seed stays exact."""
    return gr.Textbox(label=label, elem_id=name, placeholder=placeholder, min_width=80)


def _text(value: str | None) -> str:
    return (value or "").strip()


def _number(value: str | None, name: str, kind: type[N]) -> N | None:
    """The number of a field, None of an empty one."""
    text = _text(value)
    try:
        return kind(text) if text else None
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise DataError(f"{name} is {text[:40]!r}; write {wanted}, or leave it empty") from None


def _lines(value: str | None) -> tuple[str, ...]:
    """The lines of a text that say something."""
    return tuple(line.strip() for line in (value or "").splitlines() if line.strip())
