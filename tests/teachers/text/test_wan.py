"""Wan: videos by latents of frames, a time a token, pipelines of two networks, and pictures as videos of one frame."""

import json
from pathlib import Path

import pytest
import torch
from tiny_bases import randomised, tiny_wan
from torch import Tensor

from piflow_cli.engine.check.check import check_teacher
from piflow_cli.engine.check.find import family_of, teacher_settings
from piflow_cli.errors import DataError, ModelError
from piflow_cli.teachers.recording import recorded_calls
from piflow_cli.teachers.wan.family import Wan
from piflow_cli.teachers.wan.frames import check_frames, latent_frames

PUBLISHED = {"Wan2.1-1.3B": 1_418_996_800, "Wan2.1-14B": 14_288_491_584, "Wan2.2-TI2V-5B": 4_999_787_712}
"""Parameters of the transformers that were published."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_wan(tmp_path_factory.mktemp("wan") / "base").source)


def of(folder: Path, **settings: object) -> Wan:
    return tiny_wan(folder, **settings)


@pytest.mark.parametrize("name", PUBLISHED)
def test_architectures_have_the_parameters_that_were_published(name: str) -> None:
    module, backbone = Wan(source="nobody/nothing", architecture=name).describe()
    assert sum(parameter.numel() for parameter in module.parameters()) == PUBLISHED[name]
    assert backbone.projection(module).out_features == backbone.latent_channels * 4


@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [("Wan2.1-1.3B", (832, 480, 81), (21, 60, 104)), ("Wan2.2-TI2V-5B", (1280, 704, 121), (31, 44, 80))],
)
def test_latents_of_what_is_not_here_go_by_the_architecture(
    name: str, size: tuple[int, int, int], sides: tuple[int, int, int]
) -> None:
    width, height, frames = size
    settings = Wan(source="nobody/nothing", architecture=name, width=width, height=height, frames=frames)
    assert settings.latent_size(settings.describe()[0], None) == sides
    settings.check_size(width, height)


def test_a_time_a_token_is_the_same_function(tmp_path: Path) -> None:
    settings = tiny_wan(tmp_path / "base", expand_timesteps=True)
    walk = settings.load()
    condition = walk.space.encode_prompts(["a red cat", "blue dog on the house"])
    (first, *_) = settings.base_walk(walk, condition, size_px=(48, 64, 5), seed=1, num_steps=2, scale=1.0).calls
    assert first["timestep"].shape == (2, 2 * 4 * 3)  # 2 latent frames of 8x6 positions in patches of 2x2
    checked = check_teacher(settings)
    assert checked.passed, checked.failures


def test_its_own_solver_is_kept_and_its_grid_is_walked(folder: Path) -> None:
    teacher = of(folder).load()
    own = teacher.space.pipeline.scheduler
    condition = teacher.space.encode_prompts(["a cat"])
    walk = of(folder).base_walk(teacher, condition, size_px=(48, 64, 5), seed=1, num_steps=4, scale=1.0)
    assert teacher.space.pipeline.scheduler is own
    assert type(own).__name__ == "UniPCMultistepScheduler"
    assert teacher.own_shift(1000, num_steps=50).m == 3.0
    own.set_timesteps(4)
    assert walk.steps[0].sigma == 1.0
    assert own.sigmas[0] == pytest.approx(1.0, abs=1e-3)  # it starts a thousandth below


def test_prompts_are_kept_without_the_zeros_that_the_network_reads_behind_them(folder: Path) -> None:
    teacher = of(folder, guidance_scale=1.0).load()
    condition = teacher.space.encode_prompts(["a cat", "blue dog on the house"])
    lengths = [len(ids) for ids in teacher.space.tokenizer(["a cat", "blue dog on the house"]).input_ids]
    assert condition.mask is not None
    assert condition.mask.sum(1).tolist() == lengths
    assert condition.embeds.shape == (2, max(lengths), 24)
    assert [row.embeds.shape[1] for row in condition.rows()] == lengths
    x = torch.randn(2, *teacher.space.latent_shape, generator=torch.Generator().manual_seed(0))
    with recorded_calls(teacher.module) as calls:
        together = teacher.velocity(x, torch.ones(2), condition)
        alone = teacher.velocity(x[:1], torch.ones(1), condition.rows()[0])
    read = calls[0]["encoder_hidden_states"]
    expected, _ = teacher.space.pipeline.encode_prompt(
        ["a cat", "blue dog on the house"], do_classifier_free_guidance=False, max_sequence_length=12
    )
    assert torch.equal(read, expected)
    torch.testing.assert_close(alone, together[:1], rtol=1e-5, atol=1e-5)
    cut = condition.rows()[0].embeds
    bare = teacher.module(x[:1], torch.full((1,), 1000.0), cut, return_dict=False)[0]
    assert not torch.allclose(bare, alone, atol=1e-4)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (81, 21)])
def test_frames_that_latents_make_up(frames: int, latents: int) -> None:
    check_frames(frames)
    assert latent_frames(frames) == latents


@pytest.mark.parametrize(("frames", "nearest"), [(2, 1), (80, 81), (6, 5), (0, 1)])
def test_other_frames_are_refused(folder: Path, frames: int, nearest: int) -> None:
    with pytest.raises(DataError, match=f"frames {frames} is not 1 more .* the nearest one is {nearest}"):
        of(folder).check_size(48, 64, frames)


def test_a_video_of_one_frame_is_a_picture(folder: Path) -> None:
    space = of(folder, frames=1).load().space
    pictures = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    latents = space.encode_images(pictures, generator=torch.Generator().manual_seed(1))
    assert latents.shape[1:] == space.latent_shape == (4, 1, 8, 6)
    assert space.decode(latents).shape == pictures.shape
    as_video = space.encode_images(pictures.unsqueeze(2), generator=torch.Generator().manual_seed(1))
    assert torch.equal(as_video, latents)


def test_latents_of_every_channel_have_the_statistics_of_the_config(folder: Path) -> None:
    space = of(folder).load().space
    config = space.pipeline.vae.config
    with recorded_calls(space.pipeline.vae.decoder) as calls:
        space.to_pixels(torch.zeros(1, *space.latent_shape))
    raw = space.pipeline.vae.post_quant_conv(torch.tensor(config.latents_mean).view(1, 4, 1, 1, 1))
    torch.testing.assert_close(calls[0]["x"][:, :, :, 4:5, 3:4], raw, rtol=1e-5, atol=1e-6)


def test_two_networks_are_refused(folder: Path, tmp_path: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.875}
    two = tmp_path / "two"
    two.mkdir()
    for part in folder.iterdir():
        (two / part.name).symlink_to(part)
    (two / "model_index.json").unlink()
    (two / "model_index.json").write_text(json.dumps(index))
    settings = teacher_settings(str(two), family=family_of(str(two)))
    with pytest.raises(ModelError, match=r"has two networks, .* and would imitate half of this teacher"):
        settings.check_source()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patch_size": [1, 1, 1]}, r"has patches of \(1, 1, 1\)"),
        ({"in_channels": 8}, "takes 8 channels and gives 4: it goes on from a picture"),
    ],
)
def test_other_transformers_are_refused(folder: Path, tmp_path: Path, change: dict[str, object], said: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for part in folder.iterdir():
        (other / part.name).symlink_to(part)
    (other / "transformer").unlink()
    (other / "transformer").mkdir()
    config = json.loads((folder / "transformer" / "config.json").read_text()) | change
    (other / "transformer" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=said):
        of(other).describe()


def test_heads_of_both_policies_give_channels_of_every_frame(folder: Path) -> None:
    teacher = of(folder).load()
    module = randomised(teacher.module, seed=3)
    x = torch.randn(1, *teacher.space.latent_shape, generator=torch.Generator().manual_seed(0))
    condition = teacher.space.encode_prompts(["a cat"])

    def repeat(tokens: Tensor) -> Tensor:
        """Three copies of every position's channels: tokens (B, N, P C) to (B, N, P 3 C)."""
        return tokens.unflatten(-1, (4, 4)).repeat(1, 1, 1, 3).flatten(-2)

    plain = teacher.backbone.predict(module, x, torch.ones(1), condition)
    module.proj_out.register_forward_hook(lambda _module, _args, tokens: repeat(tokens))
    wide = teacher.backbone.predict(module, x, torch.ones(1), condition)
    assert torch.equal(wide, plain.repeat(1, 3, 1, 1, 1))
