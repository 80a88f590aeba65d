"""Drawing videos: files that play, sheets of stills, frames that are asked for, and what takes pictures alone."""

from pathlib import Path

import pytest
from cli_runner import run
from PIL import Image
from text_students import text_student
from tiny_bases import tiny_wan
from tiny_models import gmflow

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.data.published.entry import read_published
from piflow_cli.engine.plan.checks import check_sizes
from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.laid_out import LaidOut
from piflow_cli.engine.sample.open import open_student
from piflow_cli.engine.sample.request import TextRequest
from piflow_cli.engine.sample.sample import prepare
from piflow_cli.engine.sample.save import Gallery, save_samples
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.engine.students.model_card import model_card
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import DataError, PresetError
from piflow_cli.preset import load_preset

SAMPLING = SamplingSettings(nfe=2, total_substeps=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("videos")
    save_student(text_student(tiny_wan(place / "base"), gmflow(), sampling=SAMPLING), place / "student")
    return place


@pytest.fixture(scope="module")
def student(folder: Path) -> LoadedStudent:
    return open_student(str(folder / "student"), device="cpu", dtype="float32")


def test_frames_are_as_trained_or_as_asked_for(student: LoadedStudent) -> None:
    (usual,) = sample(["a red cat"], model=student).drawn
    assert usual.video is not None
    assert (len(usual.video.frames), usual.video.fps, usual.image.size) == (5, 16, (4 * 48, 64))
    longer = sample(["a red cat"], model=student, frames=9)
    assert longer.latents.shape == (1, 4, 3, 8, 6)
    assert longer.drawn[0].facts["frames"] == "9"
    with pytest.raises(DataError, match="frames 8 is not 1 more than a multiple of 4"):
        sample(["a red cat"], model=student, frames=8)
    with pytest.raises(DataError, match="frames is 0; it is between 1 and 1025"):
        sample(["a red cat"], model=student, frames=0)


def test_many_videos_are_not_kept_in_memory_where_files_hold_them(student: LoadedStudent) -> None:
    seen: list[int] = []
    job = prepare(["a red cat", "blue dog"], model=student)
    result = job.run(on_picture=lambda drawn: seen.append(len(drawn.video.frames)), keep_videos=False)
    assert seen == [5, 5]
    assert [drawn.video for drawn in result.drawn] == [None, None]
    assert result.frames == 5
    assert all(drawn.video is not None for drawn in job.run().drawn)


def test_one_frame_is_a_picture(student: LoadedStudent, tmp_path: Path) -> None:
    result = sample(["a red cat"], model=student, frames=1)
    assert result.drawn[0].video is None
    (path,) = save_samples(result, tmp_path / "out")
    assert path.suffix == ".png"
    with Image.open(path) as picture:
        assert picture.size == (48, 64)


def test_every_video_has_a_file_and_a_sheet_a_row_for_each(
    student: LoadedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piflow_cli.io.sheets.videos.find_spec", lambda _name: None)
    result = sample(["a red cat", "blue dog"], model=student, num_images=2)
    *videos, sheet = save_samples(result, tmp_path / "out")
    assert [path.suffix for path in videos] == [".webp"] * 4
    with Image.open(videos[0]) as video:
        assert (video.n_frames, video.size) == (5, (48, 64))
    with Image.open(sheet) as picture:
        assert (picture.width, picture.height >= 4 * 64) == (4 * 48 + 4, True)
        assert picture.info["prompt"] == "a red cat, blue dog"


def test_a_file_is_for_a_video_or_for_pictures(student: LoadedStudent, tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "one.gif")
    with pytest.raises(DataError, match="holds one video, and 2 are asked for"):
        gallery.expect(prepare(["a red cat"], model=student, num_images=2))
    with pytest.raises(DataError, match="is a file for a video, and pictures are drawn"):
        gallery.expect(prepare(["a red cat"], request=TextRequest(frames=1), model=student))
    (path,) = save_samples(sample(["a red cat"], model=student), tmp_path / "one.gif")
    with Image.open(path) as video:
        assert video.n_frames == 5
    (strip,) = save_samples(sample(["a red cat"], model=student), tmp_path / "one.png")
    with Image.open(strip) as picture:
        assert picture.size == (4 * 48, 64)


def test_the_command_draws_them_and_says_what_it_refuses(folder: Path, tmp_path: Path) -> None:
    drawn = run("sample", "a red cat", "--model", folder / "student", "--frames", 9, "--out", "cat.gif", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert "1 video by" in drawn.stdout
    with Image.open(tmp_path / "cat.gif") as video:
        assert video.n_frames == 9
    refused = run("sample", "a red cat", "--model", folder / "student", "--frames", 6, cwd=tmp_path)
    assert (refused.returncode, "the nearest one is 5" in refused.stderr) == (1, True)
    pictures = run("sample", "a cat", "--nfe", 4, "--frames", 9, cwd=tmp_path)
    assert (pictures.returncode, "this model draws pictures" in pictures.stderr) == (1, True)
    digits = run("sample", "3", "--model", "digits-1nfe", "--frames", 9, cwd=tmp_path)
    assert (digits.returncode, "takes no width, height or frames" in digits.stderr) == (1, True)


def test_the_card_of_a_student_says_how_its_videos_are_written(student: LoadedStudent) -> None:
    text = model_card(student.card, place="me/mine")
    assert "pipeline_tag: text-to-video" in text
    assert "A student of 2 network evaluations a video" in text
    assert 'export_to_video(pipe(prompt="a cat").frames[0], "video.mp4", fps=16)' in text
    one = student.card.model_copy(update={"teacher": student.card.teacher.model_copy(update={"frames": 1})})
    assert "pipeline_tag: text-to-image" in model_card(one, place="me/mine")


def test_what_scorers_of_pictures_take_is_no_video(student: LoadedStudent, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"tag": "x", "prompt": "a red cat"}\n')
    laid_out = LaidOut(tmp_path / "out", *read_published(f"geneval:{tmp_path / 'prompts.jsonl'}")[:2])
    with pytest.raises(DataError, match="takes pictures, and videos of 5 frames are asked for: pass --frames 1"):
        laid_out.expect(prepare(["a red cat"], model=student, num_images=4))


def test_sizes_and_metrics_that_videos_have_not(folder: Path) -> None:
    source = [f"teacher.source={folder / 'base'}", "teacher.width=48", "teacher.height=64"]
    with pytest.raises(PresetError, match=r"validation\.samples 8: its metrics are of pictures"):
        check_sizes(load_preset("wan-4nfe", [*source, "teacher.frames=5", "validation.samples=8"]))
    with pytest.raises(PresetError, match=r"teacher\.height, teacher\.frames 48x64: frames 6 is not"):
        check_sizes(load_preset("wan-4nfe", [*source, "teacher.frames=6"]))
