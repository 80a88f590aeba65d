"""Requests of the page: the commands draw the same files, models stay open, and what is refused breaks nothing."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from drawn_again import assert_same_files
from text_students import BASES, FOUR_STEPS, TEXT_POLICIES, style_lora, text_student

from piflow_cli.engine.sample.beside import Other
from piflow_cli.engine.students.save import save_student
from piflow_cli.engine.studio.studio import Studio
from piflow_cli.engine.studio.wanted import Opening, Wanted
from piflow_cli.errors import DataError, ModelError, PiflowError, PolicyError
from piflow_cli.teachers.flux import Flux

WANTED = {
    "plain": Wanted(("a cat",), "emoji-1nfe", seed=7),
    "quoted": Wanted(('-a "cat"', "it's $HOME {x}; a\tb", '-a "cat"'), "emoji-1nfe", num_images=2, batch_size=4),
    "changed": Wanted(("a lion", "a cat"), "emoji-2nfe", num_images=3, nfe=3, temperature=0.5, h=0.25, seed=2**64 - 3),
    "beside": Wanted(
        ("a panda",), "emoji-2nfe", h=0.5, others=(Other(None, 3), Other("emoji-1nfe"), Other("emoji-4nfe-dx"))
    ),
    "classes": Wanted(("3", "7"), "digits-1nfe", num_images=2, temperature="auto", others=(Other("digits-2nfe"),)),
}


@pytest.mark.parametrize("name", WANTED)
def test_commands_draw_the_same_files(name: str, tmp_path: Path) -> None:
    assert_same_files(Studio(Opening(), tmp_path / "page"), WANTED[name], tmp_path)


def test_commands_say_how_models_are_opened(tmp_path: Path) -> None:
    stored = text_student(Flux(source=str(BASES["flux"])), TEXT_POLICIES["gm"], sampling=FOUR_STEPS)
    save_student(stored, tmp_path / "flux")
    studio = Studio(Opening(base=str(BASES["flux"]), device="cpu", dtype="float32"), tmp_path / "page")
    size = {"width": 48, "height": 64}
    wanted = Wanted(("a red cat",), str(tmp_path / "flux"), nfe=2, others=(Other(None, 2),), **size)
    assert_same_files(studio, wanted, tmp_path)
    assert studio.draw(wanted).commands[1].count("--dtype float32") == 1
    style = style_lora(tmp_path / "style=x", "transformer_blocks.0.attn.to_q", 32, 32)
    styled = replace(wanted, loras=((str(style), 0.5),))
    (tmp_path / "styled").mkdir()
    assert_same_files(studio, styled, tmp_path / "styled")
    plain, changed = (studio.draw(request).paths[0][0].read_bytes() for request in (wanted, styled))
    assert plain != changed


def test_models_of_the_last_request_stay_open(tmp_path: Path) -> None:
    studio = Studio(Opening(), tmp_path)
    first = studio.draw(Wanted(("a cat",), "emoji-1nfe", others=(Other(None, 1), Other(None, 2))))
    opened = dict(studio._open)
    assert len(opened) == 2, "a teacher of any steps is one"
    again = studio.draw(Wanted(("a cat",), "emoji-1nfe"))
    assert list(studio._open.values()) == [opened["emoji-1nfe", False, ()]]
    assert again.paths[0][0].read_bytes() == first.paths[0][0].read_bytes()
    studio.draw(Wanted(("3",), "digits-1nfe"))
    assert [source for source, *_ in studio._open] == ["digits-1nfe"]


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        (Wanted((), "emoji-1nfe"), DataError, "no prompt was given"),
        (Wanted(("a cat",), "emoji-9nfe"), ModelError, "emoji-9nfe"),
        (Wanted(("eleven",), "digits-1nfe"), DataError, "eleven"),
        (Wanted(("a cat",), "emoji-1nfe", nfe=0), PolicyError, "nfe"),
        (Wanted(("a cat",), "emoji-1nfe", num_images=65), DataError, "65 pictures at once; a page shows at most 64"),
        (Wanted(("a cat",), "emoji-1nfe", num_images=40, others=(Other(None),)), DataError, "80 pictures at once"),
        (Wanted(("a cat",), "emoji-1nfe", others=(Other(None, 0),)), PolicyError, "nfe"),
        (Wanted(("a cat",), "emoji-1nfe", others=(Other("digits-1nfe"),)), DataError, "class"),
        (Wanted(("a cat",), "emoji-1nfe", loras=(("no/such/file.safetensors", 1.0),)), ModelError, "does not exist"),
    ],
)
def test_what_is_refused_breaks_nothing(wanted: Wanted, error: type[PiflowError], message: str, tmp_path: Path) -> None:
    studio = Studio(Opening(), tmp_path)
    with pytest.raises(error, match=message):
        studio.draw(wanted)
    assert not any(tmp_path.iterdir())
    assert len(studio.draw(Wanted(("a cat",), "emoji-1nfe")).paths[0]) == 1


def test_styles_are_in_the_command_and_no_sheet_is(tmp_path: Path) -> None:
    wanted = Wanted(("a cat",), "flux", loras=(("a=b.safetensors", 0.5),), others=(Other(None),))
    assert shlex.split(wanted.own_command(Opening()))[4:6] == ["--lora", "a=b.safetensors=0.5"]
    assert "--lora" not in wanted.command_of(Other(None), Opening())
    assert wanted.sheet_command(Opening()) is None
