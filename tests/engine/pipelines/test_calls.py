"""Text-to-image pipelines: the published latents, and every argument that diffusers' users know.

Shapes: B batch, N image tokens, C latent channels, H, W latent size.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL.Image import Image
from tiny_models import PARITY
from tiny_pipelines import FAMILIES, SIZE, base_folder, embeddings, expected, latents, pipeline, student_folder
from torch import Tensor

from piflow_cli import load_pipeline
from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.guidance import GuidedPolicy
from piflow_cli.core.sampling import sample_student
from piflow_cli.engine.pipelines.dit import PiDiTPipeline
from piflow_cli.engine.pipelines.flux import PiFluxPipeline
from piflow_cli.engine.pipelines.qwen_image import PiQwenImagePipeline
from piflow_cli.engine.pipelines.student import StudentPipeline
from piflow_cli.errors import DataError, DeviceError, ModelError, PolicyError
from piflow_cli.teachers.text.tokens import pack, unpack

BATCH_ATOL = 5e-5
"""Of latents after a whole run in float32: sums are in another order in another batch; up to 2.1e-5 here."""

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on black-forest-labs", "ignore:.*was trained on Qwen/")

PUBLISHED_ATOL = 1e-4
BASES = {"flux": diffusers.FluxPipeline, "qwen": diffusers.QwenImagePipeline}
KINDS = [(family, kind) for family in FAMILIES for kind in ("gm", "dx")]
Pipes = dict[tuple[str, str], StudentPipeline]


@pytest.fixture(scope="module")
def pipes() -> Pipes:
    return {case: pipeline(*case) for case in KINDS}


def runs() -> list[Any]:
    """Runs of the fixtures that differ from the students' own settings in arguments of a call."""
    found = []
    for family in FAMILIES:
        described = json.loads((PARITY / f"e2e_{family}" / "expected.json").read_text())["runs"]
        found += [pytest.param(family, run, id=f"{family}-{run['name']}") for run in described if "sched" not in run]
    return found


def arguments_of(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_inference_steps": run["nfe"],
        "temperature": run["temperature"],
        "total_substeps": run.get("total_substeps"),
    }


def core_latents(
    pipe: StudentPipeline, family: str, *, generator: torch.Generator | None = None, **changes: Any
) -> Tensor:
    """Packed latents by `core.sampling`, without any pipeline."""
    tensors, student = expected(family), pipe.student
    condition = student.space.conditions(
        TextCondition(embeds=tensors["prompt_embeds"], pooled=tensors.get("pooled_prompt_embeds"))
    )
    settings = student.card.sampling.model_copy(update={k: v for k, v in changes.items() if v is not None})
    noise = tensors["init_latents_unpacked"]
    found = sample_student(
        student.network, student.card.policy, noise, condition, settings=settings, generator=generator
    )
    return pack(found)


@pytest.mark.parametrize(("family", "run"), runs())
@pytest.mark.filterwarnings("ignore:.*was trained for")
def test_published_latents_and_pictures(pipes: Pipes, family: str, run: dict[str, Any]) -> None:
    pipe, tensors = pipes[family, run["kind"]], expected(family)
    samples = slice(None) if run["kind"] == "gm" else slice(1)  # see tests/teachers/test_text_parity.py
    steps: list[Tensor] = []
    times: list[float] = []

    def note(_: Any, i: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        assert i == len(steps)
        times.append(float(timestep))
        steps.append(given["latents"])
        return given

    found = latents(pipe, family, callback_on_step_end=note, **arguments_of(run))
    name = f"v0_1_2/{run['name']}"
    torch.testing.assert_close(found[samples], tensors[f"{name}.latents"][samples], rtol=0, atol=PUBLISHED_ATOL)
    if f"{name}.steps" in tensors:
        stacked = torch.stack(steps)[:, samples]
        torch.testing.assert_close(stacked, tensors[f"{name}.steps"][:, samples], rtol=0, atol=PUBLISHED_ATOL)
    if f"{run['name']}.timesteps" in tensors:
        torch.testing.assert_close(torch.tensor(times), tensors[f"{run['name']}.timesteps"], rtol=0, atol=1e-2)
    if f"{name}.image" in tensors:
        pictures = latents(pipe, family, output_type="pt", **arguments_of(run))[samples]
        torch.testing.assert_close(pictures, tensors[f"{name}.image"][samples], rtol=0, atol=PUBLISHED_ATOL)
    changes = {"nfe": run["nfe"], "temperature": run["temperature"], "total_substeps": run.get("total_substeps")}
    torch.testing.assert_close(found, core_latents(pipe, family, **changes), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_defaults_are_those_of_training(pipes: Pipes, family: str, kind: str) -> None:
    pipe = pipes[family, kind]
    assert torch.equal(latents(pipe, family), core_latents(pipe, family))
    assert pipe.num_timesteps == pipe.student.card.sampling.nfe == 4
    assert pipe.current_timestep is None


@pytest.mark.parametrize("family", FAMILIES)
def test_signature_goes_on_where_the_bases_ends(family: str) -> None:
    theirs = list(inspect.signature(BASES[family].__call__).parameters)
    ours = list(inspect.signature((PiFluxPipeline if family == "flux" else PiQwenImagePipeline).__call__).parameters)
    assert ours[: len(theirs)] == theirs
    assert ours[len(theirs) :] == ["temperature", "total_substeps", "h"]


def test_it_is_a_pipeline_of_the_bases_class(pipes: Pipes) -> None:
    for (family, _), pipe in pipes.items():
        assert isinstance(pipe, BASES[family])
        assert pipe.transformer is pipe.student.network.module
        assert set(pipe.components) == set(BASES[family].from_pretrained(base_folder(family)).components)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_encoded_by_the_base(pipes: Pipes, family: str) -> None:
    pipe, tensors = pipes[family, "gm"], expected(family)
    if family == "flux":
        prompts, length = json.loads((PARITY / "e2e_flux/expected.json").read_text())["setting"]["prompts"], 12
        found = pipe(
            prompts, **SIZE, latents=tensors["init_latents_packed"], max_sequence_length=length, output_type="latent"
        )
        want, name = tensors["v0_1_2/gm_4step_auto.latents"], "gm_4step_auto"
    else:
        noise = tensors["init_latents_packed"][:1]
        prompt, name = "the cat on a red house", "gm_4step_t03.prompt_run"
        found = pipe(prompt, **SIZE, latents=noise, temperature=0.3, output_type="latent")
        want = tensors[f"v0_1_2/{name}.latents"]
    torch.testing.assert_close(found.images, want, rtol=0, atol=PUBLISHED_ATOL)


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_is_the_bases_own(pipes: Pipes, family: str) -> None:
    pipe = pipes[family, "gm"]
    base = BASES[family].from_pretrained(base_folder(family))
    drawn = base.prepare_latents(2, 4, 64, 48, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(3))
    noise = drawn[0] if isinstance(drawn, tuple) else drawn
    seeded = latents(pipe, family, latents=None, generator=torch.Generator().manual_seed(3))
    assert torch.equal(seeded, latents(pipe, family, latents=noise))
    assert torch.equal(seeded, latents(pipe, family, latents=unpack(noise, 8, 6)))
    assert torch.equal(seeded, latents(pipe, family, latents=unpack(noise, 8, 6).unsqueeze(2)))
    with pytest.raises(ValueError, match=r"latents are \(2, 12, 8\); this call needs \(2, 12, 16\) \(packed\)"):
        latents(pipe, family, latents=noise[..., :8])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("h", [0.0, 1.0])
def test_a_generator_a_picture_makes_it_independent_of_the_batch(pipes: Pipes, family: str, h: float) -> None:
    pipe = pipes[family, "gm"]

    def draw(seeds: list[int], rows: slice, **arguments: Any) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        call = {name: tensor[rows] for name, tensor in embeddings(family).items()}
        return latents(pipe, family, latents=None, generator=generators, h=h, **call, **arguments)

    both = draw([1, 2, 3, 4], slice(None), num_images_per_prompt=2)
    second = draw([3, 4], slice(1, 2), num_images_per_prompt=2)  # pictures of a prompt lie together
    torch.testing.assert_close(both[2:], second, rtol=0, atol=BATCH_ATOL)
    torch.testing.assert_close(draw([2], slice(1)), both[1:2], rtol=0, atol=BATCH_ATOL)
    assert torch.equal(draw([1, 2], slice(None)), draw([1, 2], slice(None)))
    with pytest.raises(ValueError, match="list of generators of length 3"):
        draw([1, 2, 3], slice(None))


@pytest.mark.parametrize("family", FAMILIES)
def test_stochastic_sampling_is_that_of_the_core(pipes: Pipes, family: str) -> None:
    pipe = pipes[family, "gm"]
    ours, theirs = (torch.Generator().manual_seed(7) for _ in range(2))
    found = latents(pipe, family, h=1.0, generator=ours)
    assert torch.equal(found, core_latents(pipe, family, h=1.0, generator=theirs))
    assert float((found - latents(pipe, family)).abs().max()) > 0.1


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


def test_progress_is_shown_as_diffusers_shows_it(capfd: pytest.CaptureFixture[str]) -> None:
    pipe = pipeline("flux")
    latents(pipe, "flux")
    assert "4/4" not in capfd.readouterr().err
    pipe.set_progress_bar_config(disable=False)
    latents(pipe, "flux")
    assert "4/4" in capfd.readouterr().err


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
