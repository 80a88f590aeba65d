"""Sampling: seeds, settings, files and what they say of themselves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from piflow_cli.core.sampling import sample_student
from piflow_cli.engine.distill import distill
from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.save import save_samples
from piflow_cli.engine.students.load import LoadedStudent, load_student
from piflow_cli.errors import DataError, ModelError, PolicyError
from piflow_cli.preset import load_preset

TINY = ("training.steps=1", "training.batch_size=2", "training.preview_every=0", "data.type=noise")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> LoadedStudent:
    out = tmp_path_factory.mktemp("gm") / "run"
    distill(load_preset("digits-1nfe", [*TINY, "sampling.nfe=2", "sampling.total_substeps=16"]), out=out, device="cpu")
    return load_student(str(out))


@pytest.fixture(scope="module")
def dx_student(tmp_path_factory: pytest.TempPathFactory) -> LoadedStudent:
    out = tmp_path_factory.mktemp("dx") / "run"
    preset = load_preset("digits-1nfe", [*TINY, "sampling.nfe=2", "policy={type='dx', num_points=4}"])
    distill(preset, out=out, device="cpu")
    return load_student(str(out))


def test_noise_between_evaluations_is_the_pictures_own_and_not_the_one_it_starts_from(student: LoadedStudent) -> None:
    """Each seed's generator draws the start and goes on from there, in whatever batch the picture is."""
    options = {"model": student, "nfe": 2, "h": 1.0, "device": "cpu"}
    together = sample(["3", "7"], num_images=2, seed=5, **options).latents
    apart = sample(["3", "7"], num_images=2, seed=5, batch_size=1, **options).latents
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-5)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn((1, *student.space.latent_shape), generator=generator)
    expected = sample_student(
        student.network,
        student.card.policy,
        noise,
        torch.tensor([3]),
        settings=student.card.sampling.model_copy(update={"nfe": 2, "h": 1.0}),
        generator=generator,
    )
    torch.testing.assert_close(together[:1], expected, rtol=1e-4, atol=1e-5)


def test_picture_depends_on_seed_and_prompt_not_on_the_batch(student: LoadedStudent) -> None:
    together = sample(["3", "7"], model=student, num_images=3, seed=5, device="cpu")
    alone = sample(["7"], model=student, num_images=1, seed=6, device="cpu")
    assert together.prompts == ["3", "3", "3", "7", "7", "7"]
    assert together.seeds == [5, 6, 7, 5, 6, 7]
    torch.testing.assert_close(together.latents[4], alone.latents[0], rtol=1e-4, atol=1e-4)
    in_pieces = sample(["3", "7"], model=student, num_images=3, seed=5, batch_size=2, device="cpu")
    torch.testing.assert_close(together.latents, in_pieces.latents, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together.latents[0], together.latents[1], atol=1e-2)


def test_names_and_indices_mean_the_same_class(student: LoadedStudent) -> None:
    a, b = (sample([prompt], model=student, device="cpu").latents for prompt in ("three", "3"))
    assert torch.equal(a, b)


def test_settings_change_and_warn(student: LoadedStudent) -> None:
    plain = sample(["1"], model=student, device="cpu")
    assert plain.warnings == []
    assert plain.settings.nfe == 2
    other = sample(["1"], model=student, nfe=4, substeps=32, temperature="auto", device="cpu")
    assert "trained for 2 NFE" in other.warnings[0]
    assert (other.settings.nfe, other.settings.total_substeps, other.settings.temperature) == (4, 32, "auto")
    stochastic = [sample(["1"], model=student, h=1.0, seed=s, device="cpu").latents for s in (0, 0)]
    assert torch.equal(*stochastic)
    assert not torch.allclose(stochastic[0], plain.latents, atol=1e-3)


def test_stochasticity_that_changes_nothing_is_said(student: LoadedStudent) -> None:
    """At 1 NFE there is no time between evaluations at which noise could be added."""
    alone, noisy = (sample(["1"], model=student, nfe=1, h=h, device="cpu") for h in (0.0, 2.0))
    assert torch.equal(alone.latents, noisy.latents)
    assert not any("changes nothing" in said for said in alone.warnings)
    assert "h is 2 and changes nothing at 1 NFE: its noise is added between evaluations" in noisy.warnings


def test_dx_refuses_longer_segments_and_warns_of_shorter_ones(dx_student: LoadedStudent) -> None:
    assert not sample(["1"], model=dx_student, device="cpu").warnings
    assert "was trained for 2 NFE" in sample(["1"], model=dx_student, nfe=4, device="cpu").warnings[0]
    with pytest.raises(PolicyError, match=r"trained on segments of 0\.5"):
        sample(["1"], model=dx_student, nfe=1, device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": [""]}, "prompt is empty"),
        ({"prompts": []}, "no prompt"),
        ({"prompts": ["12"]}, "out of range; this model has classes 0 to 9"),
        ({"prompts": ["thre"]}, "Did you mean three"),
        ({"num_images": 0}, "num_images is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_requests_are_named(student: LoadedStudent, changes: dict, message: str) -> None:
    request = {"prompts": ["1"]} | changes
    with pytest.raises(DataError, match=message):
        sample(request.pop("prompts"), model=student, device="cpu", **request)


def test_bad_settings_and_models_are_named(student: LoadedStudent) -> None:
    with pytest.raises(PolicyError, match="nfe"):
        sample(["1"], model=student, nfe=0, device="cpu")
    with pytest.raises(ModelError, match="unknown student"):
        sample(["1"], model="digits-1nf", device="cpu")


def test_files_carry_what_made_them_and_are_never_written_over(student: LoadedStudent, tmp_path: Path) -> None:
    result = sample(["3", "seven"], model=student, seed=4, device="cpu")
    paths = save_samples(result, tmp_path / "out")
    assert [path.name for path in paths] == ["3-seed4.png", "seven-seed4.png", "grid.png"]
    with Image.open(paths[1]) as image:
        assert image.text["prompt"] == "seven"
        assert image.text["seed"] == "4"
        assert image.text["software"].startswith("piflow ")
        assert json.loads(image.text["sampling"])["nfe"] == 2
        decoded = student.space.decode(result.latents[1:])[0, 0]
        assert np.abs(np.asarray(image) / 255 - decoded.numpy()).max() <= 0.5 / 255 + 1e-6
    assert save_samples(result, tmp_path / "out")[0].name == "3-seed4-2.png"
    assert [path.name for path in save_samples(result, tmp_path / "out", grid=True)] == ["grid-3.png"]
    assert len(save_samples(result, tmp_path / "out", grid=False)) == 2
    one = sample(["3"], model=student, device="cpu")
    assert save_samples(one, tmp_path / "cat.png") == [tmp_path / "cat.png"]
    with pytest.raises(DataError, match=r"written as \.png"):
        save_samples(one, tmp_path / "cat.jpg")


def test_progress_counts_evaluations(student: LoadedStudent) -> None:
    seen: list[tuple[int, int]] = []
    sample(["1"], model=student, num_images=5, batch_size=2, device="cpu", on_progress=lambda *p: seen.append(p))
    assert seen == [(2, 10), (4, 10), (6, 10), (8, 10), (9, 10), (10, 10)]
