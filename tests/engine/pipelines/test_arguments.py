"""Arguments of a call that change what is drawn: outputs, callbacks, negative prompts, attention, precision."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image
from tiny_pipelines import FAMILIES, SIZE, Pipes, embeddings, expected, latents, pipeline
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.guidance import GuidedPolicy
from piflow_cli.engine.pipelines.student import StudentPipeline
from piflow_cli.teachers.text.tokens import pack

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on black-forest-labs", "ignore:.*was trained on Qwen/")


@pytest.mark.parametrize("family", FAMILIES)
def test_output_types(pipes: Pipes, family: str) -> None:
    pipe = pipes[family, "gm"]
    tensor = latents(pipe, family, output_type="pt")
    assert tensor.shape == (2, 3, 64, 48)
    assert 0 <= float(tensor.min()) <= float(tensor.max()) <= 1
    array = latents(pipe, family, output_type="np")
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    pictures = latents(pipe, family, output_type="pil")
    assert all(isinstance(picture, Image) and picture.size == (48, 64) for picture in pictures)
    np.testing.assert_array_equal(np.asarray(pictures[1]), (array[1] * 255).round().astype("uint8"))
    packed = latents(pipe, family, output_type="latent")
    assert packed.shape == (2, 12, 16)
    as_tuple = pipe(**embeddings(family), **SIZE, return_dict=False, generator=torch.Generator().manual_seed(0))
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == 1
    with pytest.raises(ValueError, match="output_type 'jpg' is not known; one of pil, pt, np, latent"):
        latents(pipe, family, output_type="jpg")


@pytest.mark.parametrize("family", FAMILIES)
def test_callbacks_may_change_latents_and_embeddings(pipes: Pipes, family: str) -> None:
    pipe = pipes[family, "gm"]
    plain = latents(pipe, family)

    def at_first(change: Any) -> Any:
        return lambda _, i, __, given: change(given) if i == 0 else given

    names = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    same = latents(pipe, family, callback_on_step_end=at_first(lambda _: {}), **names)
    assert torch.equal(same, plain)
    moved = at_first(lambda given: {"latents": given["latents"] + 1})
    assert float((latents(pipe, family, callback_on_step_end=moved) - plain).abs().max()) > 0.1
    blank = at_first(lambda given: {"prompt_embeds": given["prompt_embeds"] * 0})
    assert not torch.equal(latents(pipe, family, callback_on_step_end=blank, **names), plain)
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        latents(pipe, family, callback_on_step_end=moved, callback_on_step_end_tensor_inputs=["noise"])


@pytest.mark.parametrize("family", FAMILIES)
def test_interrupt_leaves_out_the_rest(pipes: Pipes, family: str) -> None:
    pipe, seen = pipes[family, "gm"], []

    def stop(called: StudentPipeline, i: int, _: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(given["latents"])
        called._interrupt = i == 1
        return given

    assert torch.equal(latents(pipe, family, callback_on_step_end=stop), seen[-1])
    assert len(seen) == 2
    latents(pipe, family)
    assert not pipe.interrupt


@pytest.mark.parametrize("family", FAMILIES)
def test_negative_prompt_guides_by_policies_and_doubles_the_evaluations(pipes: Pipes, family: str) -> None:
    pipe, tensors = pipes[family, "gm"], expected(family)
    student, calls = pipe.student, []
    handle = pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    negative = {f"negative_{name}": tensor.flip(0) for name, tensor in embeddings(family).items()}
    options = {"num_inference_steps": 1, "total_substeps": 32} | negative
    with pytest.warns(UserWarning, match="was trained for 4 NFE"):
        found = latents(pipe, family, true_cfg_scale=3.0, **options)
    handle.remove()
    assert len(calls) == 2

    x, sigma, tau = tensors["init_latents_unpacked"], torch.ones(2), torch.ones(2)
    condition = student.space.conditions(
        TextCondition(embeds=tensors["prompt_embeds"], pooled=tensors.get("pooled_prompt_embeds"))
    )
    with torch.no_grad():
        one, other = (student.network.policy(x, sigma, c) for c in (condition, condition[torch.tensor([1, 0])]))
    guided = GuidedPolicy(one, other, 3.0)
    end = guided.rollout(x, tau, torch.zeros(2), shift=student.card.sampling.time_shift, total_substeps=32)
    torch.testing.assert_close(found, pack(end), rtol=0, atol=1e-5)
    with pytest.warns(UserWarning, match="negative_prompt does nothing at true_cfg_scale 1.0; pass one > 1"):
        plain = latents(pipe, family, **negative)
    assert torch.equal(plain, latents(pipe, family))
    with pytest.warns(UserWarning, match="true_cfg_scale 4.0 does nothing without a negative_prompt"):
        latents(pipe, family, true_cfg_scale=4.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_negative_prompt_serves_all(pipes: Pipes, family: str) -> None:
    pipe = pipes[family, "gm"]
    call = SIZE | {"true_cfg_scale": 2.0, "output_type": "latent"}
    call |= {"max_sequence_length": 12} if family == "flux" else {}

    def draw(negative: str | list[str]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        prompts = ["a red cat", "a blue dog"]
        return pipe(prompts, negative_prompt=negative, num_images_per_prompt=2, generator=generator, **call).images

    assert torch.equal(draw("blue"), draw(["blue", "blue"]))
    with pytest.raises(ValueError, match="there are 6 negative prompts for 4 pictures"):
        draw(["blue", "red", "cat"])


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_arguments_reach_the_transformer(pipes: Pipes, family: str) -> None:
    pipe, seen = pipes[family, "gm"], []
    name = "joint_attention_kwargs" if family == "flux" else "attention_kwargs"
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs.get(name)), with_kwargs=True
    )
    try:
        latents(pipe, family, **{name: {"scale": 0.5}})
        latents(pipe, family, **{name: {"scale": 0.5, "note": 1}})
    finally:
        hook.remove()
    assert seen == [None] * 4 + [{"note": 1}] * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_decodes_as_the_base_does_and_keeps_the_loop_in_float32(family: str) -> None:
    pipe = pipeline(family, **{"torch_dtype" if family == "flux" else "dtype": torch.bfloat16})
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.bfloat16}
    half = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in embeddings(family).items()
    }
    seen: list[Tensor] = []

    def look(_: Any, __: int, ___: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(by_base(pipe, family, given["latents"]))
        return given

    plain = latents(pipe, family, **half)
    found = latents(pipe, family, callback_on_step_end=look, **half)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, plain)  # a callback that gives back what it got takes no precision away
    picture = pipe.image_processor.postprocess(seen[-1], output_type="pt")
    torch.testing.assert_close(latents(pipe, family, output_type="pt", **half), picture, rtol=0, atol=0.02)
    assert torch.equal(by_base(pipe, family, found), seen[-1])
    assert len(latents(pipe, family, output_type="pil")) == 2


def by_base(pipe: StudentPipeline, family: str, packed: Tensor) -> Tensor:
    """Pictures in [-1, 1] of packed latents by what diffusers' users write: the base's own unpacking, and its VAE."""
    unpacked = pipe._unpack_latents(packed, SIZE["height"], SIZE["width"], pipe.vae_scale_factor)
    config = pipe.vae.config
    if family == "flux":
        return pipe.vae.decode(unpacked / config.scaling_factor + config.shift_factor, return_dict=False)[0]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
    return pipe.vae.decode((unpacked * std + mean).to(packed.dtype), return_dict=False)[0][:, :, 0]


def test_progress_is_shown_as_diffusers_shows_it(capfd: pytest.CaptureFixture[str]) -> None:
    pipe = pipeline("flux")
    latents(pipe, "flux")
    assert "4/4" not in capfd.readouterr().err
    pipe.set_progress_bar_config(disable=False)
    latents(pipe, "flux")
    assert "4/4" in capfd.readouterr().err
