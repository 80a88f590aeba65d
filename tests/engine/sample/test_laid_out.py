"""Pictures as scorers want them: the same as without a layout, under the names that the scorers' own code opens."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import DIGIT_NAMES, save_teacher, student_of

from piflow_cli.data.published.dpg import SET as DPG
from piflow_cli.data.published.entry import Entry, PublishedSet
from piflow_cli.data.published.geneval import SET as GENEVAL
from piflow_cli.data.published.hpsv2 import SET as HPSV2
from piflow_cli.data.published.hpsv3 import SET as HPSV3
from piflow_cli.data.published.oneig import SET as ONEIG
from piflow_cli.data.published.parti import SET as PARTI
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.sample.laid_out import LaidOut, LaidOutResult, draw_laid_out
from piflow_cli.engine.sample.request import TextRequest
from piflow_cli.engine.sample.sample import prepare, sample
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.errors import DataError, StorageError
from piflow_cli.teachers.dit.family import DiT

WORDS = ["3", "7", "1"]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> LoadedStudent:
    """Of classes, whose names are its prompts: a layout does not care."""
    folder = save_teacher(tmp_path_factory.mktemp("t") / "t", labels=DIGIT_NAMES, in_channels=1, out_channels=1)
    return student_of(DiT(source=str(folder)))


def lay_out(
    published: PublishedSet, entries: list[Entry], student: LoadedStudent, out: Path, **changes: int
) -> tuple[LaidOutResult, list[tuple[int, int]]]:
    gallery, seen = LaidOut(out, published, entries), []
    options = {"num_images": gallery.usual, "batch_size": 2, "seed": 5} | changes
    job = prepare(gallery.asked, model=student, **options)
    gallery.expect(job)
    return draw_laid_out(job, gallery, together=Together(), on_progress=lambda *at: seen.append(at)), seen


def names(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def test_geneval_has_a_folder_a_prompt_with_its_line_and_samples(student: LoadedStudent, tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": word, "tag": "counting"}) for word in WORDS]
    entries = [Entry(word, f"{n:05}", line) for n, (word, line) in enumerate(zip(WORDS, lines, strict=True))]
    result, seen = lay_out(GENEVAL, entries, student, tmp_path / "out")
    assert (result.pictures, result.prompts) == (12, 3)
    assert seen[-1] == (12, 12)
    assert all(before <= after for (before, _), (after, _) in itertools.pairwise(seen))
    alone = sample(WORDS, model=student, num_images=4, seed=5, batch_size=2)
    for number, line in enumerate(lines):
        folder = tmp_path / "out" / f"{number:05}"
        assert json.loads((folder / "metadata.jsonl").read_text()) == json.loads(line)
        samples = sorted((folder / "samples").iterdir())
        assert all(re.fullmatch(r"\d+\.png", path.name) for path in samples)  # as its evaluate_images.py asks
        for path, picture in zip(samples, alone.images[4 * number : 4 * number + 4], strict=True):
            assert Image.open(path).tobytes() == picture.convert("RGB").tobytes()


def test_dpg_has_a_sheet_a_prompt_whose_quarters_are_the_pictures(student: LoadedStudent, tmp_path: Path) -> None:
    lay_out(DPG, [Entry("3", "cat7"), Entry("7", "11")], student, tmp_path)
    assert names(tmp_path) == ["11.png", "cat7.png"]
    alone = sample(["3"], model=student, num_images=4, seed=5, batch_size=2).images
    sheet, size = Image.open(tmp_path / "cat7.png"), alone[0].width
    corners = [(0, 0), (size, 0), (0, size), (size, size)]  # in the order of compute_dpg_bench.py
    for (left, top), picture in zip(corners, alone, strict=True):
        assert sheet.crop((left, top, left + size, top + size)).tobytes() == picture.convert("RGB").tobytes()


def test_oneig_has_sheets_by_category_and_model(student: LoadedStudent, tmp_path: Path) -> None:
    lay_out(ONEIG, [Entry("3", "human/000"), Entry("7", "text/012")], student, tmp_path)
    assert names(tmp_path) == ["human/tiny/000.webp", "text/tiny/012.webp"]
    alone = sample(["7"], model=student, num_images=4, seed=5, batch_size=2).images
    sheet = Image.open(tmp_path / "text/tiny/012.webp").convert("RGB")
    assert sheet.size == (2 * alone[0].width, 2 * alone[0].height)
    assert sheet.crop((0, 0, alone[0].width, alone[0].height)).tobytes() == alone[0].convert("RGB").tobytes()
    lay_out(ONEIG, [Entry("3", "human/001")], student, tmp_path, num_images=1)  # beside what is there
    assert Image.open(tmp_path / "human/tiny/001.webp").size == alone[0].size


def test_hps_has_a_picture_a_prompt(student: LoadedStudent, tmp_path: Path) -> None:
    lay_out(HPSV2, [Entry("3", "anime/00000"), Entry("7", "photo/00799")], student, tmp_path / "v2")
    assert names(tmp_path / "v2") == ["anime/00000.jpg", "photo/00799.jpg"]
    assert Image.open(tmp_path / "v2/anime/00000.jpg").format == "JPEG"
    lay_out(HPSV3, [Entry("3", "Natural Scenery/a1")], student, tmp_path / "v3")
    assert names(tmp_path / "v3") == ["Natural Scenery/a1.png", "Natural Scenery/a1.txt"]
    assert (tmp_path / "v3/Natural Scenery/a1.txt").read_text() == "3"


def test_nothing_is_written_over_and_no_number_that_a_scorer_does_not_take(
    student: LoadedStudent, tmp_path: Path
) -> None:
    entries = [Entry("3", "a"), Entry("7", "b")]
    (tmp_path / "b.png").write_text("mine")
    with pytest.raises(StorageError, match=r"b\.png exists, and is not written over"):
        lay_out(DPG, entries, student, tmp_path)
    assert names(tmp_path) == ["b.png"]
    with pytest.raises(DataError, match="3 pictures of a prompt: the scorer of dpg takes 4, 1"):
        lay_out(DPG, entries, student, tmp_path / "other", num_images=3)
    wide = LaidOut(tmp_path / "wide", DPG, entries)
    job = prepare(wide.asked, model=student, num_images=4)
    with pytest.raises(DataError, match="cuts its sheets into squares, and pictures have 16x8: pass --width"):
        wide.expect(replace(job, asked=TextRequest(width=16, height=8)))
    with pytest.raises(DataError, match="parti has no scorer of its own"):
        LaidOut(tmp_path, PARTI, [Entry("3")])
