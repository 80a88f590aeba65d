"""What can be refused is refused before anything is drawn, and what was drawn is never lost."""

from pathlib import Path

import pytest
from cli_runner import Ended, run

from piflow_cli.data.asked import Asked
from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.job import Drawn
from piflow_cli.engine.sample.open import open_student, open_teacher
from piflow_cli.engine.sample.sample import prepare
from piflow_cli.engine.sample.save import MAX_SHEET_PX, Gallery, save_samples
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.errors import DataError, StorageError

REFUSED = {
    "jpeg": (["--out", "cat.jpg"], 1, "written as .png"),
    "file in the way": (["--out", "file"], 1, "is no folder"),
    "below a file": (["--out", "file/cat.png"], 1, "is no folder"),
    "long name": (["--out", "x" * 300 + ".png"], 1, "longer than 255 bytes"),
    "one file, no sheet": (["4", "--out", "cat.png", "--no-grid"], 1, "holds one picture, and 2 are asked for"),
    "nfe": (["--nfe", "0"], 1, "nfe: greater than or equal to 1 (got 0)"),
    "nfe, huge": (["--nfe", "9" * 30], 1, "nfe: less than or equal to 128"),
    "substeps": (["--substeps", "0"], 1, "total_substeps: greater than or equal to 1 (got 0)"),
    "h": (["--h", "-1"], 1, "h: greater than or equal to 0 (got -1.0)"),
    "h is no number": (["--h", "nan"], 1, "h: "),
    "temperature": (["--temperature", "-3"], 1, "temperature: "),
    "temperature is no number": (["--temperature", "nan"], 1, "temperature: "),
    "num_images": (["--num-images", "0"], 1, "num_images is 0; it must be at least 1"),
    "num_images, huge": (["--num-images", "9" * 40], 1, "num_images is a number of more than 30 digits"),
    "batch_size": (["--batch-size", "0"], 1, "batch_size is 0"),
    "seed": (["--seed", "-1"], 1, "seed is -1; it must be at least 0"),
    "seed, huge": (["--seed", str(2**64)], 1, "at most 2^64 - 1"),
    "last seed": (["--seed", str(2**64 - 1), "-n", "2"], 1, "the last one at most 2^64 - 1"),
    "seeds and their number": (["--seeds", "1,2", "-n", "2"], 2, "leave out --num-images and --seed"),
    "seeds backwards": (["--seeds", "8-1"], 2, "the range 8-1 ends before it begins"),
    "seeds without end": (["--seeds", "0-99999999999"], 2, "has more than 100,000 seeds"),
    "seeds of words": (["--seeds", "1,x"], 2, "no list of whole numbers such as 1,2,3 or 1-8"),
    "width": (["--width", "0"], 1, "width is 0; it is between 1 and 16384 pixels"),
    "height": (["--height", "9999999999"], 1, "height is 9999999999"),
    "guidance": (["--guidance", "nan"], 1, "guidance is nan"),
    "negative scale": (["--negative-prompt", "x", "--negative-scale", "inf"], 1, "negative_scale is inf"),
    "NUL": (["a\0b"], 1, "holds a NUL character"),
    "bytes": (["caf\udce9"], 1, "is not UTF-8"),
    "long prompt": (["x" * 100_001], 1, "the limit is 100,000"),
    "steps": (["--steps", "4"], 2, "is for --teacher"),
    "teacher's nfe": (["--teacher", "--nfe", "4"], 1, "takes no nfe"),
    "teacher's steps": (["--teacher", "--steps", "0"], 1, "nfe: greater than or equal to 1 (got 0)"),
    "teacher with LoRA": (["--teacher", "--lora", "x.safetensors"], 2, "goes without --lora"),
    "no such LoRA": (["--lora", "none.safetensors"], 1, "LoRA 'none.safetensors' does not exist"),
    "LoRA's weight": (["--lora", "file=nan"], 1, "has the weight nan"),
    "dtype": (["--dtype", "int8"], 1, "dtype 'int8' is none of"),
}


def asked(*arguments: str, cwd: Path) -> Ended:
    return run("sample", "3", "--model", "digits-1nfe", *arguments, cwd=cwd)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_drawing(name: str, tmp_path: Path) -> None:
    arguments, code, message = REFUSED[name]
    (tmp_path / "file").write_text("mine")
    ended = asked(*arguments, cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert message in " ".join(ended.stderr.split())
    assert "0s left" not in ended.stderr
    assert "bug" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folders_may_have_dots_and_seeds_ranges(tmp_path: Path) -> None:
    ended = asked("--seeds", "1-3,3,9", "--out", "flux-v1.5", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "names seeds twice" in ended.stderr
    assert sorted(p.name for p in (tmp_path / "flux-v1.5").iterdir()) == [f"3-seed{i}.png" for i in (1, 2, 3, 9)]


@pytest.fixture(scope="module")
def student() -> LoadedStudent:
    return open_student("emoji-1nfe", device="cpu")


def test_prompts_of_every_script_and_length_are_drawn(student: LoadedStudent, tmp_path: Path) -> None:
    prompts = ["a cat\nin a hat", "\U0001f431", "قطة", "word " * 2000, "a\tb\u2028c", "..", "CON"]
    result = sample(prompts, model=student)
    paths = save_samples(result, tmp_path)
    assert len(paths) == len(prompts) + 1
    assert any("tokens beyond" in warning for warning in result.warnings)


def test_what_was_drawn_is_kept_when_the_next_fails(student: LoadedStudent, tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "out")
    job = prepare(["a cat", "a dog", "a fox"], model=student, batch_size=1)
    gallery.expect(job)

    def add(drawn: Drawn) -> None:
        if drawn.prompt == "a fox":
            raise KeyboardInterrupt
        gallery.add(drawn)

    with pytest.raises(KeyboardInterrupt):
        job.run(on_picture=add)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a-cat-seed0.png", "a-dog-seed0.png"]


def test_a_sheet_too_large_is_refused_or_left_out(student: LoadedStudent, tmp_path: Path) -> None:
    count = MAX_SHEET_PX // 128**2 + 8
    job = prepare([f"cat {i}" for i in range(count)], model=student)
    with pytest.raises(DataError, match="write files instead"):
        Gallery(tmp_path / "out", grid=True).expect(job)
    gallery = Gallery(tmp_path / "out")
    gallery.expect(job)
    assert gallery.grid is False


def test_rows_of_a_sheet_are_the_prompts_as_asked(student: LoadedStudent, tmp_path: Path) -> None:
    result = sample(["a cat", "a dog", "a cat"], model=student, num_images=2)
    assert result.pictures_a_prompt == 2
    assert len(save_samples(result, tmp_path, grid=True)) == 1


def test_a_prompt_may_have_its_own_seed(student: LoadedStudent) -> None:
    result = sample([Asked("a cat", 7), "a dog"], model=student, num_images=2, seed=1)
    assert result.seeds == [7, 8, 1, 2]
    with pytest.raises(DataError, match="bring seeds of their own"):
        sample([Asked("a cat", 7)], model=student, seeds=[1])


def test_the_teacher_draws_from_the_same_noise() -> None:
    student, teacher = open_student("digits-1nfe", device="cpu"), open_teacher("digits-1nfe", device="cpu")
    few, many = (sample(["3"], model=teacher, seed=5, steps=steps).latents for steps in (64, 128))
    near, other = (sample(["3"], model=student, seed=seed).latents for seed in (5, 6))
    distance = (near - many).square().mean()
    assert (few - many).square().mean() < distance / 4  # the steps converge
    assert distance < (other - many).square().mean() / 2  # to what the student imitates


def test_folders_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is no folder"):
        Gallery(tmp_path / "file" / "x")
