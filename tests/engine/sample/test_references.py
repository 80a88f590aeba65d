"""Editing: prompts about pictures, by the command, by a teacher, and by the pipeline that is called as the base is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import run
from PIL import Image
from text_students import text_student
from tiny_bases import tiny_flux2
from tiny_models import gmflow, tiny_flux
from tiny_qwen_edit import tiny_qwen_edit, tiny_qwen_edit_single

from piflow_cli import load_pipeline
from piflow_cli.core.flow import generators_of, randn_like_seeded
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.data.asked import Asked
from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.open import open_student, open_teacher
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import DataError

TWO_STEPS = SamplingSettings(nfe=2, total_substeps=8)
PROMPT = "a red cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of FLUX.2 klein and pictures of several sizes."""
    place = tmp_path_factory.mktemp("edits")
    save_student(text_student(tiny_flux2(place / "base"), gmflow(), sampling=TWO_STEPS), place / "student")
    for i, (name, size) in enumerate({"cat": (96, 64), "hat": (80, 112), "small": (40, 64), "dog": (96, 64)}.items()):
        fields = np.random.default_rng(i).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(fields).resize(size, Image.Resampling.NEAREST).save(place / f"{name}.png")
    return place


def differ(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Beyond what rounding makes of latents; random weights hardly look at a picture."""
    return float((first - second).abs().max()) > 3e-5


def drawn(folder: Path, *names: str, prompt: str | Asked = PROMPT, **options: object) -> torch.Tensor:
    model = options.pop("model", None) or open_student(str(folder / "student"), device="cpu", dtype="float32")
    references = [folder / f"{name}.png" for name in names]
    return sample([prompt], model=model, references=references, seed=5, **options).latents


def test_the_picture_decides_and_gives_its_size(folder: Path) -> None:
    one, two = drawn(folder, "cat"), drawn(folder, "cat", "hat")
    assert one.shape == two.shape == (1, 4, 8, 12)
    other, swapped = drawn(folder, "dog"), drawn(folder, "hat", "cat", width=96, height=64)
    for latents in (two, other, swapped, drawn(folder, width=96, height=64)):
        assert differ(latents, one)
    assert drawn(folder, "cat", width=48, height=80).shape == (1, 4, 10, 6)


def test_prompts_of_one_batch_have_pictures_of_their_own(folder: Path) -> None:
    asked = [
        Asked(PROMPT, references=(folder / "cat.png",)),
        Asked("the hat", references=(folder / "hat.png", folder / "cat.png")),
        Asked("blue dog"),
    ]
    model, size = open_student(str(folder / "student"), device="cpu", dtype="float32"), {"width": 48, "height": 64}
    together = sample(asked, model=model, seed=5, batch_size=3, **size).latents
    alone = [sample([item], model=model, seed=5, **size).latents for item in asked]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match=r"several sizes \(96x64, 80x112\): pass --width and --height"):
        sample(asked[:2], model=model)


def test_the_pipeline_draws_the_same(folder: Path) -> None:
    pipe = load_pipeline(folder / "student")
    pipe.set_progress_bar_config(disable=True)
    noise = randn_like_seeded((1, 4, 8, 12), generators_of([5]), "cpu")
    images = [Image.open(folder / f"{name}.png") for name in ("cat", "hat")]
    expected = pipe.student.space.base_result(drawn(folder, "cat", "hat"))
    given = pipe(prompt=PROMPT, image=images, latents=noise, output_type="latent").images
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
    embeds = pipe.student.space.encode_prompts([PROMPT]).embeds
    again = pipe(prompt_embeds=embeds, image=images, latents=noise, output_type="latent").images
    torch.testing.assert_close(again, given, rtol=1e-5, atol=1e-5)
    seen = {"callback_on_step_end": lambda _pipe, _i, _t, tensors: tensors}
    assert torch.equal(pipe(prompt=PROMPT, image=images, latents=noise, output_type="latent", **seen).images, given)
    two = pipe(prompt=[PROMPT, "blue dog"], image=images[0], num_images_per_prompt=2).images
    assert [image.size for image in two] == [(96, 64)] * 4
    with pytest.raises(ValueError, match=r"image\[0\] is a str; reference pictures are of PIL"):
        pipe(prompt=PROMPT, image="cat.png")


def test_guidance_away_from_a_prompt_is_about_the_same_picture(folder: Path) -> None:
    model = open_student(str(folder / "student"), device="cpu", dtype="float32")
    options = {"model": model, "negative_scale": 2.0}
    same = drawn(folder, "cat", negative_prompt=PROMPT, **options)
    torch.testing.assert_close(same, drawn(folder, "cat", model=model), rtol=1e-4, atol=1e-4)
    assert differ(drawn(folder, "cat", negative_prompt="the house", **options), same)


def test_the_command_edits(folder: Path, tmp_path: Path) -> None:
    asked = ["--image", folder / "cat.png", "--image", folder / "hat.png", "--device", "cpu"]
    done = run("sample", PROMPT, "--model", folder / "student", *asked, "--out", "edit.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "edit.png") as picture:
        assert picture.size == (96, 64)
        assert picture.text["references"] == "cat.png, hat.png"
    rows = [{"prompt": PROMPT, "references": "cat.png"}, {"prompt": "the hat", "references": ["cat.png", "hat.png"]}]
    (folder / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = ["--out", "many", "--no-grid", "--teacher", "--steps", "2", "--device", "cpu"]
    done = run("sample", "--prompts", folder / "edits.jsonl", "--model", folder / "student", *out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "many").glob("*.png"))) == 2


def test_a_teacher_edits(folder: Path) -> None:
    teacher = open_teacher(str(folder / "student"), device="cpu", dtype="float32")
    one, two = drawn(folder, "cat", model=teacher, steps=2), drawn(folder, "dog", model=teacher, steps=2)
    assert differ(one, two)


def test_what_cannot_be_edited_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    cases = {
        "small": f"the reference picture small.png of the prompt {PROMPT!r} is not taken: Image too small: 40×64",
        "missing": "cannot be read",
    }
    for name, message in cases.items():
        done = run("sample", PROMPT, "--model", folder / "student", "--image", folder / f"{name}.png", cwd=tmp_path)
        assert done.returncode == 1
        assert message in " ".join(done.stderr.split())
    save_student(text_student(tiny_flux(), gmflow(), sampling=TWO_STEPS), tmp_path / "flux")
    for model in (str(tmp_path / "flux"), "digits-1nfe", "emoji-1nfe"):
        done = run("sample", "3", "--model", model, "--image", folder / "cat.png", cwd=tmp_path)
        assert done.returncode == 1
        assert "draws from prompts alone and takes no reference pictures (--image FILE)" in " ".join(
            done.stderr.split()
        )
    with pytest.raises(DataError, match="takes 0 to 10 reference pictures of a prompt, and 11 are given"):
        drawn(folder, *["cat"] * 11)


def test_qwen_image_edits_pictures_that_its_encoder_sees(folder: Path, tmp_path: Path) -> None:
    save_student(text_student(tiny_qwen_edit(tmp_path / "base"), gmflow(), sampling=TWO_STEPS), tmp_path / "student")
    model = open_student(str(tmp_path / "student"), device="cpu", dtype="float32")
    one = drawn(folder, "cat", model=model)
    assert one.shape == (1, 4, 12, 20)  # as many pixels as the pipeline makes of it
    for names in (("cat", "hat"), ("dog",)):
        assert differ(drawn(folder, *names, model=model, width=160, height=96), one)
    assert differ(drawn(folder, "cat", model=model, prompt="blue dog"), one)
    pipe = load_pipeline(tmp_path / "student")
    pipe.set_progress_bar_config(disable=True)
    noise = randn_like_seeded((1, 4, 12, 20), generators_of([5]), "cpu")
    image = Image.open(folder / "cat.png")
    given = pipe(image, PROMPT, latents=noise, output_type="latent").images
    torch.testing.assert_close(given, pipe.student.space.base_result(one), rtol=1e-4, atol=1e-4)
    guided = {"latents": noise, "output_type": "latent", "true_cfg_scale": 2.0}
    same = pipe(image, PROMPT, negative_prompt=PROMPT, **guided).images
    torch.testing.assert_close(same, given, rtol=1e-4, atol=1e-4)
    assert differ(pipe(image, PROMPT, negative_prompt="the house", **guided).images, given)
    with pytest.raises(DataError, match="takes 1 to 8 reference pictures of a prompt, and one has 0"):
        pipe(prompt=PROMPT)
    with pytest.raises(DataError, match=r"picture number 1 of the prompt .* 1x300 pixels; .* at most 200 times"):
        pipe(Image.new("RGB", (1, 300)), PROMPT)
    done = run("sample", PROMPT, "--model", tmp_path / "student", cwd=tmp_path)
    assert done.returncode == 1
    assert "takes 1 to 8 reference pictures of a prompt, and none is given: pass --image FILE" in " ".join(
        done.stderr.split()
    )


def test_the_first_qwen_image_edit_takes_one_picture(folder: Path, tmp_path: Path) -> None:
    base = tiny_qwen_edit_single(tmp_path / "base")
    save_student(text_student(base, gmflow(), sampling=TWO_STEPS), tmp_path / "student")
    model = open_student(str(tmp_path / "student"), device="cpu", dtype="float32")
    assert differ(drawn(folder, "cat", model=model), drawn(folder, "dog", model=model))
    with pytest.raises(DataError, match="takes 1 reference picture of a prompt, and 2 are given"):
        drawn(folder, "cat", "hat", model=model)
