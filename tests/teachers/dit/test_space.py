"""Pictures and latents there and back, and classes by what they are called."""

from pathlib import Path

import pytest
import torch
from tiny_models import save_teacher, tiny_vae

from piflow_cli.errors import DataError, ModelError
from piflow_cli.teachers.dit.family import DiT
from piflow_cli.teachers.dit.space import DiTSpace
from piflow_cli.teachers.dit.teacher import DiTTeacher


def test_pixels_need_no_autoencoder(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher", in_channels=1, out_channels=1)
    space = DiT(source=str(folder)).load().space
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(space.decode(space.encode_images(images)), images)
    assert (space.image_channels, space.image_size_px) == (1, 8)
    assert space.decode(torch.full((1, 1, 8, 8), 3.0)).max() == 1.0


def test_latents_go_through_the_autoencoder_with_its_scale_and_shift(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher", vae=True)
    space = DiT(source=str(folder)).load().space
    vae = tiny_vae()
    latents = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    pictures = space.decode(latents)
    assert pictures.shape == (2, 3, 16, 16)
    assert (space.image_channels, space.image_size_px) == (3, 16)
    with torch.no_grad():
        expected = (vae.decode(latents / 0.5 + 0.25).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(pictures, expected)

    images = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    encoded = space.encode_images(images, generator=torch.Generator().manual_seed(2))
    assert encoded.shape == (2, 4, 8, 8)
    with torch.no_grad():
        posterior = vae.encode(images * 2 - 1).latent_dist
    expected = (posterior.sample(torch.Generator().manual_seed(2)) - 0.25) * 0.5
    torch.testing.assert_close(encoded, expected)


def test_autoencoder_can_be_named_apart(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher")
    tiny_vae().save_pretrained(tmp_path / "autoencoder")
    space = DiT(source=str(folder), vae=str(tmp_path / "autoencoder")).load().space
    assert space.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 16, 16)


def test_latents_without_an_autoencoder_do_not_decode(teacher: DiTTeacher) -> None:
    with pytest.raises(ModelError, match=r"set teacher\.vae"):
        teacher.space.decode(torch.zeros(1, 4, 8, 8))


def test_prompts_are_names_or_indices() -> None:
    space = DiTSpace(labels={0: "goldfish, Carassius auratus", 1: "Great White Shark"}, latent_shape=(1, 8, 8))
    prompts = ["1", " 0 ", "goldfish", "carassius AURATUS", "great white shark"]
    assert space.encode_prompts(prompts).tolist() == [1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ("  ", "the prompt is empty"),
        ("2", r"class 2 is out of range; this model has classes 0 to 1"),
        ("-1", "out of range"),
        ("gold fish", "Did you mean goldfish"),
        ("zebra crossing", "Classes: goldfish, great white shark"),
    ],
)
def test_prompts_that_are_no_class(prompt: str, message: str) -> None:
    space = DiTSpace(labels={0: "goldfish", 1: "great white shark"}, latent_shape=(1, 8, 8))
    with pytest.raises(DataError, match=message):
        space.encode_prompts([prompt])


def test_preview_conditions_spread_over_the_classes() -> None:
    space = DiTSpace(labels={i: str(i) for i in range(1000)}, latent_shape=(4, 32, 32))
    assert space.preview_conditions(4).tolist() == [0, 250, 500, 750]
    assert DiTSpace(labels=dict.fromkeys(range(3), ""), latent_shape=(1, 8, 8)).preview_conditions(5).max() == 2
