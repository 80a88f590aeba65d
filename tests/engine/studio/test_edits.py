"""Requests of the page about pictures: the commands draw the same files, also when the uploads are gone."""

from pathlib import Path

import pytest
from drawn_again import assert_same_files
from PIL import Image
from text_students import text_student
from tiny_bases import tiny_flux2
from tiny_models import gmflow

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.sample.beside import Other
from piflow_cli.engine.students.save import save_student
from piflow_cli.engine.studio.studio import Studio
from piflow_cli.engine.studio.wanted import Opening, Wanted
from piflow_cli.errors import DataError


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A student of FLUX.2 klein."""
    place = tmp_path_factory.mktemp("edits")
    sampling = SamplingSettings(nfe=2, total_substeps=8)
    save_student(text_student(tiny_flux2(place / "base"), gmflow(), sampling=sampling), place / "student")
    return str(place / "student")


def uploads(folder: Path) -> tuple[Path, ...]:
    """Two pictures of one name, in folders of their own as a page keeps them."""
    paths = tuple(folder / name / "cat.png" for name in "ab")
    for path, colour in zip(paths, ("red", "blue"), strict=True):
        path.parent.mkdir(parents=True)
        Image.new("RGB", (96, 64), colour).save(path)
    return paths


def test_commands_about_pictures_draw_the_same_files(student: str, tmp_path: Path) -> None:
    wanted = Wanted(("a red cat",), student, others=(Other(None, 2),), references=uploads(tmp_path / "uploads"))
    studio = Studio(Opening(device="cpu", dtype="float32"), tmp_path / "page")
    assert_same_files(studio, wanted, tmp_path)
    command = studio.draw(wanted).commands[0]
    for path in wanted.references:
        path.unlink()
    assert command.count("--image") == 2
    assert "uploads" not in command
    kept = sorted((tmp_path / "page" / "references").glob("*/cat.png"))
    assert len(kept) == 2, "each picture is kept once, however often it is asked about"
    with Image.open(next((tmp_path / "page").glob("*.png"))) as picture:
        assert picture.text["references"] == "cat.png, cat.png"


def test_a_model_that_does_not_edit_and_what_is_no_picture_are_refused(student: str, tmp_path: Path) -> None:
    studio, paths = Studio(Opening(device="cpu", dtype="float32"), tmp_path / "page"), uploads(tmp_path)
    with pytest.raises(DataError, match="draws from prompts alone and takes no reference pictures"):
        studio.draw(Wanted(("a cat",), "emoji-1nfe", references=paths))
    paths[1].write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cat\.png does not decode as a picture"):
        studio.draw(Wanted(("a cat",), student, references=paths))
    assert not (tmp_path / "page").exists()
