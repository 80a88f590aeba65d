"""Pipelines of families without one that is written out: called by the base's own arguments, in a few evaluations."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from text_students import text_student
from tiny_models import EDITING, TEACHERS, gmflow, type_of
from torch import Tensor

from piflow_cli import load_pipeline
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.pipelines import PIPELINES
from piflow_cli.engine.pipelines.called import COPIES, CalledAsBase
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import DataError

FAMILIES = [name for name in TEACHERS if type_of(name) not in PIPELINES and name not in EDITING]
PROMPTS = ["a red cat", "blue dog on the house"]
TWO_STEPS = SamplingSettings(nfe=2, total_substeps=8)
REFUSED = {
    "sd3": {"skip_guidance_layers": [1], "clip_skip": 1, "sigmas": [1.0, 0.5], "mu": 1.0},
    "qwen_image_2": {"image": ["a picture"], "output_resolution": 512, "sigmas": [1.0, 0.5]},
    "z_image": {"sigmas": [1.0, 0.5], "cfg_normalization": True, "cfg_truncation": 0.5},
    "flux2": {"text_encoder_out_layers": (1, 2, 3), "sigmas": [1.0, 0.5]},
    "flux2-dev": {"caption_upsample_temperature": 0.15, "sigmas": [1.0, 0.5]},
    "wan": {"guidance_scale_2": 3.0},
}
"""Arguments of the base's call that mean nothing to a student."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pipe(family: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CalledAsBase]:
    folder: Path = tmp_path_factory.mktemp(family)
    save_student(text_student(TEACHERS[family](folder / "base"), gmflow(), sampling=TWO_STEPS), folder / "student")
    loaded = load_pipeline(folder / "student")
    loaded.set_progress_bar_config(disable=True)
    return loaded


def latents(pipe: CalledAsBase, *args: object, seed: int = 3, **arguments: object) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return drawn(pipe(*args, generator=generator, output_type="latent", **arguments))


def test_it_is_the_base_with_a_student_in_it(family: str, pipe: CalledAsBase) -> None:
    base = pipe.student.space.base_class
    assert base.__module__.startswith("diffusers.")
    assert isinstance(pipe, base)
    assert isinstance(pipe, CalledAsBase)
    assert type(pipe).__name__ == f"Pi{base.__name__}"
    assert pipe.student.card.teacher.type == type_of(family)


def test_arguments_go_by_place_and_by_name_as_the_bases(family: str, pipe: CalledAsBase) -> None:
    names = list(inspect.signature(pipe.student.space.base_class.__call__).parameters)[1:]
    before = [None] * names.index("prompt")
    named = latents(pipe, prompt=PROMPTS)
    assert torch.equal(latents(pipe, *before, PROMPTS), named)
    assert not torch.equal(latents(pipe, prompt=PROMPTS, seed=4), named)
    if before:
        with pytest.raises(ValueError, match=f"the first argument is {names[0]}, as the base's; pass prompt by name"):
            pipe(PROMPTS)
    with pytest.raises(TypeError, match="no_such_argument"):
        pipe(prompt="a cat", no_such_argument=1)


def test_noise_is_drawn_as_the_base_draws_it(pipe: CalledAsBase) -> None:
    backbone, space = pipe.student.network.backbone, pipe.student.space
    channels, *_, height, width = space.latent_shape
    pixels = (height * space.factor, width * space.factor, *([space.frames] if space.frames > 1 else []))
    generator = torch.Generator().manual_seed(3)
    first = next(iter(inspect.signature(pipe.prepare_latents).parameters))
    before = [None] if first.startswith("image") else []
    drawn = pipe.prepare_latents(*before, 2, channels, *pixels, torch.float32, torch.device("cpu"), generator)
    noise = backbone.from_base(drawn[0] if isinstance(drawn, tuple) else drawn, height, width)
    assert torch.equal(latents(pipe, prompt=PROMPTS, latents=noise), latents(pipe, prompt=PROMPTS))
    given = backbone.to_call(noise)
    assert torch.equal(latents(pipe, prompt=PROMPTS, latents=given), latents(pipe, prompt=PROMPTS))


def test_pictures_of_a_prompt_are_several(pipe: CalledAsBase) -> None:
    copies = next(name for name in COPIES if name in type(pipe).base_call.parameters)
    many = latents(pipe, prompt=PROMPTS, **{copies: 2}, latents=noise_of(pipe, 4))
    one = latents(pipe, prompt=[PROMPTS[0]] * 2 + [PROMPTS[1]] * 2, latents=noise_of(pipe, 4))
    torch.testing.assert_close(many, one, rtol=1e-4, atol=1e-5)


def test_videos_have_the_frames_that_are_asked_for(pipe: CalledAsBase) -> None:
    if pipe.student.space.frames == 1:
        with pytest.raises(TypeError, match="num_frames"):
            pipe(prompt="a red cat", num_frames=5)
        return
    assert pipe(prompt="a red cat").frames.shape[1] == pipe.student.space.frames
    (video,) = pipe(prompt="a red cat", num_frames=9, output_type="pil").frames
    assert [image.size for image in video] == [(48, 64)] * 9
    with pytest.raises(DataError, match="frames 8 is not 1 more than a multiple of 4; the nearest one is 9"):
        pipe(prompt="a red cat", num_frames=8)


def drawn(output: object) -> Any:
    """Pictures or videos of what a pipeline returned."""
    return output.frames if hasattr(output, "frames") else output.images


def stills(output: object) -> list[Image.Image]:
    """A picture of each."""
    return [found[0] if isinstance(found, list) else found for found in drawn(output)]


def noise_of(pipe: CalledAsBase, count: int) -> Tensor:
    return torch.randn((count, *pipe.student.space.latent_shape), generator=torch.Generator().manual_seed(1))


def test_a_negative_prompt_guides_on_top(family: str, pipe: CalledAsBase) -> None:
    space = pipe.student.space
    negative = space.base_arguments(space.encode_prompts(["the house"] * 2))
    negative = {f"negative_{name}": value for name, value in negative.items()}
    plain = latents(pipe, prompt=PROMPTS)
    if space.embedded_guidance and not negative.keys() <= type(pipe).base_call.parameters.keys():
        with pytest.raises(TypeError, match="negative_prompt_embeds"):
            latents(pipe, prompt=PROMPTS, **negative)
        return
    if space.embedded_guidance:
        with pytest.warns(UserWarning, match="does nothing where the network embeds"):
            assert torch.equal(latents(pipe, prompt=PROMPTS, **negative), plain)
        return
    asked = space.base_guidance(1.5)
    guided = latents(pipe, prompt=PROMPTS, **negative, **asked)
    assert not torch.allclose(guided, plain, atol=1e-3)
    same = space.base_arguments(space.encode_prompts(PROMPTS))
    same = {f"negative_{name}": value for name, value in same.items()}
    torch.testing.assert_close(latents(pipe, prompt=PROMPTS, **same, **asked), plain, rtol=1e-4, atol=1e-4)
    with pytest.warns(UserWarning, match="a negative prompt does nothing without"):
        latents(pipe, prompt=PROMPTS, **negative)
    with pytest.warns(UserWarning, match="is in the student's weights"):
        assert torch.equal(latents(pipe, prompt=PROMPTS, **asked), plain)


def test_every_text_is_read(family: str, pipe: CalledAsBase) -> None:
    plain = latents(pipe, prompt=PROMPTS)
    others = list(type(pipe).base_call.parameters)
    for name in [name for name in others if name.removeprefix("prompt_").isdecimal()]:
        assert not torch.equal(latents(pipe, prompt=PROMPTS, **{name: ["the photo"] * 2}), plain), name
    if "negative_prompt" in others:
        asked = pipe.student.space.base_guidance(2.0)
        assert not torch.equal(latents(pipe, prompt=PROMPTS, negative_prompt="the house", **asked), plain)


def test_what_a_student_does_not_support_is_refused(family: str, pipe: CalledAsBase) -> None:
    for name, value in REFUSED[family].items():
        with pytest.raises(ValueError, match=f"{name} is an argument of the base's pipeline"):
            pipe(prompt="a red cat", **{name: value})
    with pytest.raises(ValueError, match="either prompt, or the embeddings"):
        pipe(num_inference_steps=2)
    embeddings = pipe.student.space.base_arguments(pipe.student.space.encode_prompts(["a cat"]))
    with pytest.raises(ValueError, match="either prompt, or the embeddings"):
        pipe(prompt="a red cat", **embeddings)
    if sum(value is not None for value in embeddings.values()) > 1:
        first = next(iter(embeddings))
        with pytest.raises(ValueError, match=f"{first} need"):
            pipe(**{first: embeddings[first]})
    with pytest.raises(ValueError, match="callbacks are shown latents"):
        pipe(prompt="a", callback_on_step_end=lambda *_: {}, callback_on_step_end_tensor_inputs=["noise_pred"])


def test_sizes_and_evaluations_are_asked_for(pipe: CalledAsBase) -> None:
    (image,) = stills(pipe(prompt="a red cat", width=64, height=96, num_inference_steps=3, output_type="pil"))
    assert image.size == (64, 96)
    assert pipe.num_timesteps == 3
    assert isinstance(pipe(prompt="a red cat", return_dict=False), tuple)
    with pytest.warns(UserWarning, match="are not divisible by"):
        (image,) = stills(pipe(prompt="a red cat", width=67, height=96, output_type="pil"))
    assert image.size == (64, 96)


def test_style_lora_acts_and_leaves(pipe: CalledAsBase) -> None:
    target = pipe.student.network.backbone.lora_targets(pipe.transformer)[0]
    layer = pipe.transformer.get_submodule(target)
    generator = torch.Generator().manual_seed(0)
    style = {
        f"transformer.{target}.lora_A.weight": torch.randn(2, layer.in_features, generator=generator),
        f"transformer.{target}.lora_B.weight": torch.randn(layer.out_features, 2, generator=generator),
    }
    plain = latents(pipe, prompt=PROMPTS)
    pipe.load_lora_weights(style, adapter_name="style")
    assert not torch.allclose(latents(pipe, prompt=PROMPTS), plain, atol=1e-3)
    pipe.unload_lora_weights()
    torch.testing.assert_close(latents(pipe, prompt=PROMPTS), plain, rtol=1e-5, atol=1e-5)
