"""The tab that draws: what is asked for, and beside it pictures, times, commands and what was drawn before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from piflow_cli.cli.playing.form import Form, fields
from piflow_cli.cli.playing.words import facts_list, problem, said
from piflow_cli.cli.sampling.drawing import summary

if TYPE_CHECKING:
    from piflow_cli.engine.studio.studio import Drawing, Studio

MAX_KEPT = 60
"""Pictures that a tab of the browser keeps in sight; files of earlier ones stay."""


class Kept(NamedTuple):
    """A picture that was drawn, and what draws it again."""

    path: str
    command: str


def drawing_tab(studio: Studio, model: str) -> None:
    """Lay the tab out, and say what its button does."""
    kept = gr.State([])
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            asked, button = fields(model)
        with gr.Column(scale=3, min_width=300):
            said_ = gr.HTML(elem_id="said", elem_classes=["said"], min_height=24)
            pictures = gr.Gallery(
                show_label=False,
                elem_id="pictures",
                columns=4,
                height="auto",
                object_fit="contain",
                interactive=False,
                buttons=["download", "fullscreen"],
            )
            sheet = gr.Image(
                show_label=False,
                elem_id="sheet",
                type="filepath",
                visible=False,
                interactive=False,
                buttons=["download", "fullscreen"],
            )
            commands = gr.Textbox(
                label="Draws the same files again",
                elem_id="commands",
                lines=1,
                max_lines=8,
                interactive=False,
                buttons=["copy"],
            )
            files = gr.File(label="Files", elem_id="files", file_count="multiple", interactive=False, visible=False)
    with gr.Accordion("Drawn before", open=True):
        gallery = gr.Gallery(
            show_label=False,
            elem_id="kept",
            columns=8,
            height="auto",
            object_fit="contain",
            interactive=False,
            allow_preview=False,
            buttons=[],
        )
        facts = gr.HTML(elem_id="facts", elem_classes=["said"])
        again = gr.Textbox(
            label="Draws it again, with the others of its drawing",
            elem_id="again",
            interactive=False,
            buttons=["copy"],
            visible=False,
            max_lines=4,
        )
    shown = [said_, pictures, sheet, commands, files, kept, gallery]
    gr.on(
        [button.click, asked[0].submit],
        _drawer(studio),
        [kept, *asked],
        shown,
        concurrency_limit=1,
        show_progress_on=[pictures],
        api_visibility="private",
    )
    gallery.select(_look, kept, [facts, again], api_visibility="private")


def _drawer(studio: Studio) -> Callable[..., tuple[Any, ...]]:
    """What the button does."""

    def draw(kept: list[Kept], *values: Any, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        progress(0, desc="opening the models")
        try:
            drawing = studio.draw(
                Form(*values).wanted(),
                on_progress=lambda done, total: progress((done, total), unit="evaluations", desc="drawing"),
            )
        except Exception as error:  # whatever it is, the page goes on and says so
            return (problem(error), *(gr.skip() for _ in range(6)))
        return _shown(drawing, kept)

    return draw


def _shown(drawing: Drawing, kept: list[Kept]) -> tuple[Any, ...]:
    """Values of the outputs after a drawing."""
    from piflow_cli.engine.sample.beside import label

    captioned, fresh = [], []
    for result, paths, command in zip(drawing.results, drawing.paths, drawing.commands, strict=True):
        for path in paths:
            captioned.append((str(path), label(result)))
            fresh.append(Kept(str(path), command))
    sheet = drawing.sheet
    lines = drawing.commands + ([] if drawing.sheet_command is None else [drawing.sheet_command])
    kept = [*fresh, *(Kept(*one) for one in kept)][:MAX_KEPT]
    files = [path for path, _ in captioned] + ([str(sheet)] if sheet is not None else [])
    return (
        said(*(summary(result) for result in drawing.results), warnings=drawing.warnings),
        captioned,
        gr.update(value=None if sheet is None else str(sheet), visible=sheet is not None),
        "\n".join(lines),
        gr.update(value=files, visible=True),
        kept,
        [one.path for one in kept if Path(one.path).exists()],
    )


def _look(kept: list[Kept], event: gr.SelectData) -> tuple[str, Any]:
    """What the file of a picture or video says of itself, and the command that draws it."""
    from piflow_cli.io.sheets.videos import said_in

    here = [Kept(*one) for one in kept if Path(one[0]).exists()]
    if not 0 <= event.index < len(here):
        return said(error="this picture is no longer there"), gr.skip()
    chosen = here[event.index]
    try:
        facts = {"file": chosen.path, **said_in(Path(chosen.path))}
    except (OSError, ValueError) as error:
        return problem(error), gr.skip()
    return facts_list(facts), gr.update(value=chosen.command, visible=True)
