"""What a call or a student's file asks that cannot be: warned of or refused, with the value and what is allowed."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tiny_pipelines import FAMILIES, SIZE, Pipes, base_folder, embeddings, expected, latents, pipeline, student_folder
from torch import Tensor

from piflow_cli import load_pipeline
from piflow_cli.engine.pipelines.dit import PiDiTPipeline
from piflow_cli.engine.pipelines.flux import PiFluxPipeline
from piflow_cli.engine.pipelines.qwen_image import PiQwenImagePipeline
from piflow_cli.errors import DataError, DeviceError, ModelError, PolicyError

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on black-forest-labs", "ignore:.*was trained on Qwen/")


def test_what_students_do_not_support_is_refused(pipes: Pipes) -> None:
    image = torch.zeros(1, 3, 8, 8)
    for name in ("ip_adapter_image", "negative_ip_adapter_image"):
        with pytest.raises(ValueError, match=f"{name} is an argument of the base's pipeline"):
            latents(pipes["flux", "gm"], "flux", **{name: image})
        with pytest.raises(ValueError, match=f"{name}_embeds is an argument"):
            latents(pipes["flux", "gm"], "flux", **{f"{name}_embeds": [image]})
    for family in FAMILIES:
        with pytest.raises(ValueError, match="sigmas is an argument"):
            latents(pipes[family, "gm"], family, sigmas=[1.0, 0.5])
        with pytest.raises(TypeError, match="unexpected keyword argument 'steps'"):
            latents(pipes[family, "gm"], family, steps=4)
    with pytest.raises(ValueError, match="IP adapters"):
        pipes["flux", "gm"].load_ip_adapter("somebody/ip-adapter")
    for name in ("negative_prompt_2", "negative_pooled_prompt_embeds"):
        with pytest.raises(ValueError, match=f"{name} means nothing without"):
            latents(pipes["flux", "gm"], "flux", **{name: "x"})
    with pytest.raises(ValueError, match="pooled_prompt_embeds means nothing without prompt_embeds"):
        pipes["flux", "gm"]("a cat", pooled_prompt_embeds=torch.zeros(1, 32), **SIZE)
    with pytest.raises(ValueError, match="prompt_embeds_mask means nothing without prompt_embeds"):
        pipes["qwen", "gm"]("a cat", prompt_embeds_mask=torch.ones(1, 9), **SIZE)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_cannot_be_sampled_is_refused(pipes: Pipes, family: str) -> None:
    pipe = pipes[family, "gm"]
    with pytest.raises(DataError, match="width 10 is not a positive multiple of 16; the nearest one is 16"):
        latents(pipe, family, width=10)
    for changes in ({"num_inference_steps": 0}, {"total_substeps": 0}, {"h": -1.0}, {"temperature": "hot"}):
        with pytest.raises(PolicyError):
            latents(pipe, family, **changes)
    with pytest.raises(PolicyError, match=r"trained on segments of 0\.285714"):
        latents(pipes[family, "dx"], family, num_inference_steps=2)
    with pytest.raises(ValueError, match="Cannot forward both"):
        latents(pipe, family, prompt="a cat")
    with pytest.raises(ValueError, match="Provide either"):
        pipe(**SIZE)
    with pytest.warns(UserWarning, match="was trained for 4 NFE"):
        latents(pipe, family, num_inference_steps=6)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_beyond_the_limit_are_counted(pipes: Pipes, family: str) -> None:
    prompt = "the cat on a red house " * 8
    with pytest.warns(UserWarning, match=r"the last \d+ of \d+ tokens of the prompt 'the cat on"):
        pipes[family, "gm"](prompt, **SIZE, max_sequence_length=10, output_type="latent")


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_that_do_not_divide_are_cut_with_a_warning(pipes: Pipes, family: str) -> None:
    pipe = pipes[family, "gm"]
    with pytest.warns(UserWarning, match="50 x 79 pixels .* are not divisible by 16: pictures are 48 x 64"):
        cut = latents(pipe, family, width=50, height=79)
    assert torch.equal(cut, latents(pipe, family))


def test_prompts_of_flux_serve_all_or_are_as_many(pipes: Pipes) -> None:
    pipe = pipes["flux", "gm"]

    def draw(prompt: Any, second: Any = None, **arguments: Any) -> Tensor:
        call = SIZE | {"max_sequence_length": 12, "output_type": "latent"} | arguments
        return pipe(prompt, second, generator=torch.Generator().manual_seed(0), **call).images

    one, other, third = "a red cat", "a blue dog", "the house"
    both = draw([one, other], [third, third])
    assert len(both) == 2
    assert torch.equal(draw([one, other], third), both)
    assert torch.equal(draw((one, other), np.array([third, third])), both)
    assert torch.equal(draw(one, [third, other]), draw([one, one], [third, other]))
    assert torch.equal(draw([one], third), draw(one, third))
    with pytest.raises(ValueError, match="there are 2 in prompt and 3 in prompt_2; pass as many of each, or one text"):
        draw([one, other], [third] * 3)
    with pytest.raises(ValueError, match="prompt is empty"):
        draw([])
    with pytest.raises(ValueError, match=r"prompt\[1\] is a int; prompts are text"):
        draw([one, 3])
    guided = {"true_cfg_scale": 2.0}
    several = draw([one, other], negative_prompt=[third, one], negative_prompt_2=[other, other], **guided)
    assert torch.equal(draw([one, other], negative_prompt=[third, one], negative_prompt_2=other, **guided), several)
    with pytest.raises(ValueError, match="there are 2 in negative_prompt and 1 in negative_prompt_2"):
        draw([one, other], negative_prompt=[third, one], negative_prompt_2=[other], **guided)
    with pytest.raises(ValueError, match="there are 1 negative prompts for 2 pictures"):
        draw([one, other], negative_prompt=[third], **guided)


@pytest.mark.parametrize("family", FAMILIES)
def test_arrays_and_unequal_embeddings(pipes: Pipes, family: str) -> None:
    pipe, noise = pipes[family, "gm"], expected(family)["init_latents_packed"]
    assert torch.equal(latents(pipe, family, latents=noise.numpy()), latents(pipe, family))
    with pytest.raises(ValueError, match="latents is a str; pass a tensor"):
        latents(pipe, family, latents="noise")
    name = "pooled_prompt_embeds" if family == "flux" else "prompt_embeds_mask"
    with pytest.raises(ValueError, match=f"unequal numbers of prompts: prompt_embeds of 2, {name} of 1"):
        latents(pipe, family, **{name: embeddings(family)[name][:1]})


def test_loading_says_what_does_not_fit() -> None:
    flux, qwen = student_folder("flux"), base_folder("qwen")
    with pytest.raises(ModelError, match="not a FluxPipeline"):
        load_pipeline(flux, base=qwen)
    with pytest.raises(TypeError, match="'bass' is no option of loading a student; there are base, torch_dtype"):
        load_pipeline(flux, bass=qwen)
    with pytest.raises(DeviceError, match="unknown device 'gpu'"):
        load_pipeline(flux, base=base_folder("flux"), device="gpu")
    with pytest.raises(
        ModelError, match="student of a flux teacher, but PiQwenImagePipeline is for students of qwen_image"
    ):
        PiQwenImagePipeline.from_pretrained(flux, base=base_folder("flux"))
    with pytest.raises(ModelError, match="students of dit teachers have no setting variant"):
        PiDiTPipeline.from_pretrained("digits-1nfe", variant="fp16")
    with pytest.raises(ModelError, match="students of dit teachers hold all their weights; they take no base"):
        load_pipeline("digits-1nfe", base=qwen)
    with pytest.warns(UserWarning, match="was trained on black-forest-labs/FLUX.1-dev and is loaded onto"):
        load_pipeline(flux, base=base_folder("flux"))


def test_pipeline_without_a_student_says_so() -> None:
    parts = diffusers.FluxPipeline.from_pretrained(base_folder("flux")).components
    with pytest.raises(ValueError, match="holds no student; make the pipeline by load_pipeline or from_pretrained"):
        PiFluxPipeline(**parts)
    pipe = pipeline("flux")
    pipe.transformer = diffusers.FluxTransformer2DModel.from_config(pipe.transformer.config)
    with pytest.raises(ValueError, match=r"pipe\.transformer is not the student's any more"):
        latents(pipe, "flux")


def test_another_guidance_than_the_trained_one_is_warned_of(pipes: Pipes) -> None:
    flux, qwen = pipes["flux", "gm"], pipes["qwen", "gm"]
    plain = latents(flux, "flux")
    assert flux.guidance_scale == 3.5
    with pytest.warns(UserWarning, match=r"guidance_scale 7.0 is not what .* was trained with \(3.5\)"):
        other = latents(flux, "flux", guidance_scale=7.0)
    assert flux.guidance_scale == 7.0
    assert not torch.equal(other, plain)
    assert torch.equal(latents(flux, "flux", guidance_scale=3.5), plain)
    with pytest.warns(UserWarning, match=r"guidance_scale 7.5 is ignored: .* \(4.0\) is in its weights") as warned:
        ignored = latents(qwen, "qwen", guidance_scale=7.5)
    assert torch.equal(ignored, latents(qwen, "qwen"))
    assert any(Path(warning.filename).name == "tiny_pipelines.py" for warning in warned)  # it points at the call
