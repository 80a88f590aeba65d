"""What users of diffusers expect of any pipeline, one function each, of students and, for comparison, of their bases.

A behaviour either holds for a subject, or is in `REFUSED` with the sentence that says so, or in `ABSENT` because the
class has no such thing. The counts stand in the guide.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, DiTPipeline, DiTTransformer2DModel
from tiny_models import gmflow, randomise, stored_student, tiny_vae
from tiny_pipelines import STYLES, aligned, base_folder, pipeline, style
from torch import Tensor

from piflow_cli import load_pipeline
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.pipelines.student import StudentPipeline
from piflow_cli.engine.students.save import save_student

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*was trained (on|for)",
    "ignore:.*guidance_scale",
    "ignore:Already found a `peft_config` attribute",
    "ignore:students are saved as safetensors",
    "ignore:.*Already unmerged",
    "ignore:.*is not None when",
)

TEXT, FLUX = ("flux", "qwen"), ("flux",)
CLOSE = {"rtol": 0, "atol": 1e-3}
CPU = torch.device("cpu")
GUIDE = (Path(__file__).parents[3] / "docs" / "pipeline.md").read_text()


@dataclass(frozen=True)
class Subject:
    """A pipeline to try: of a family (flux, qwen, dit), the student or the base."""

    family: str
    student: bool
    folder: Path

    def make(self) -> Any:
        """A fresh one."""
        if self.family in TEXT:
            if self.student:
                return pipeline(self.family)
            kind = diffusers.FluxPipeline if self.family == "flux" else diffusers.QwenImagePipeline
            return aligned(kind.from_pretrained(base_folder(self.family)))
        if self.student:
            place = self.folder / "student"
            if not place.exists():
                sampling = SamplingSettings(nfe=2, total_substeps=16)
                save_student(stored_student(gmflow(), sampling=sampling), place, vae=tiny_vae())
            return aligned(load_pipeline(place))
        return aligned(DiTPipeline(tiny_dit(), tiny_vae(), diffusers.DDIMScheduler()))

    def call(self, pipe: Any, **changes: Any) -> Tensor:
        """Pictures (B, 3, H, W), or whatever else is asked for."""
        call: dict[str, Any] = {"generator": seed(0), "output_type": "pt", "num_inference_steps": 2}
        if self.family == "dit":
            call |= {"class_labels": [1], "num_inference_steps": 2} | ({} if self.student else {"output_type": "np"})
        else:
            call |= {"prompt": "a red cat", "height": 64, "width": 48, "max_sequence_length": 12}
        images = pipe(**(call | changes))[0]
        if self.family == "dit" and not self.student and isinstance(images, np.ndarray):
            return torch.as_tensor(images).permute(0, 3, 1, 2)
        return images

    def several(self, *texts: str) -> dict[str, Any]:
        """The arguments that ask for several pictures."""
        return {"class_labels": [len(text) % 10 for text in texts]} if self.family == "dit" else {"prompt": list(texts)}

    def attention(self) -> str:
        return "joint_attention_kwargs" if self.family == "flux" else "attention_kwargs"


def tiny_dit() -> DiTTransformer2DModel:
    """A transformer for DiTPipeline, which wants a thousand classes."""
    model = DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        num_embeds_ada_norm=1000,
    )
    return randomise(model, seed=0).eval()


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def same(found: Any, wanted: Any, **tolerance: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted), **(tolerance or CLOSE))


def parts_of(pipe: Any) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


Behaviour = Callable[[Subject], None]
BEHAVIOURS: dict[str, tuple[Behaviour, tuple[str, ...]]] = {}
"""Function and families by name."""


def behaviour(*families: str) -> Callable[[Behaviour], Behaviour]:
    def note(function: Behaviour) -> Behaviour:
        BEHAVIOURS[function.__name__] = function, families or (*TEXT, "dit")
        return function

    return note


@behaviour()
def saved_and_loaded_it_draws_the_same(it: Subject) -> None:
    pipe = it.make()
    pipe.save_pretrained(it.folder / "saved")
    same(it.call(aligned(type(pipe).from_pretrained(it.folder / "saved"))), it.call(pipe))


@behaviour()
def it_takes_the_older_way_of_saving(it: Subject) -> None:
    pipe = it.make()
    pipe.save_pretrained(it.folder / "old", safe_serialization=False)
    same(it.call(aligned(type(pipe).from_pretrained(it.folder / "old"))), it.call(pipe))


@behaviour(*TEXT)
def it_loads_a_variant(it: Subject) -> None:
    pipe, extra = it.make(), {"save_base": True} if it.student else {}
    pipe.save_pretrained(it.folder / "variant", variant="fp16", **extra)
    assert list((it.folder / "variant").rglob("vae/*.fp16.safetensors"))
    same(it.call(aligned(type(pipe).from_pretrained(it.folder / "variant", variant="fp16"))), it.call(pipe))
    with pytest.raises(Exception, match=r"fp32|bf16|variant"):
        type(pipe).from_pretrained(it.folder / "variant", variant="bf16")


@behaviour(*TEXT)
def it_loads_without_a_text_encoder(it: Subject) -> None:
    pipe = it.make()
    embeds = given_embeds(it, pipe)
    pipe.save_pretrained(it.folder / "light")
    again = aligned(type(pipe).from_pretrained(it.folder / "light", text_encoder=None, tokenizer=None))
    assert again.text_encoder is None
    same(it.call(again, prompt=None, **embeds), it.call(pipe))


@behaviour()
def dict_and_tuple_hold_the_same(it: Subject) -> None:
    pipe = it.make()
    assert torch.equal(torch.as_tensor(it.call(pipe, return_dict=False)), torch.as_tensor(it.call(pipe)))


@behaviour()
def components_make_another(it: Subject) -> None:
    pipe = it.make()
    assert set(pipe.components) <= set(inspect.signature(type(pipe).__init__).parameters)
    again = aligned(type(pipe)(**pipe.components))
    same(it.call(again), it.call(pipe))


@behaviour()
def a_copied_transformer_makes_another(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    again = aligned(type(pipe)(**(pipe.components | {"transformer": copy.deepcopy(pipe.transformer)})))
    for parameter in pipe.transformer.parameters():
        parameter.data.zero_()
    same(it.call(again), wanted)


@behaviour()
def from_pipe_of_its_own_class_is_the_same(it: Subject) -> None:
    pipe = it.make()
    again = aligned(type(pipe).from_pipe(pipe))
    assert set(again.components) == set(pipe.components)
    same(it.call(again), it.call(pipe))


@behaviour(*TEXT)
def from_pipe_makes_image_to_image(it: Subject) -> None:
    kind = diffusers.FluxImg2ImgPipeline if it.family == "flux" else diffusers.QwenImageImg2ImgPipeline
    assert isinstance(kind.from_pipe(it.make()), kind)


@behaviour(*TEXT)
def auto_pipelines_convert_it(it: Subject) -> None:
    assert diffusers.AutoPipelineForImage2Image.from_pipe(it.make()) is not None


@behaviour()
def optional_arguments_have_defaults(it: Subject) -> None:
    parameters = inspect.signature(type(it.make()).__call__).parameters
    wanted = {"num_inference_steps", "generator", "output_type", "return_dict", "guidance_scale"}
    wanted |= {"num_images_per_prompt", "latents", "prompt_embeds"} if it.family in TEXT else set()
    assert wanted <= {name for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


@behaviour()
def a_batch_is_as_many_pictures(it: Subject) -> None:
    texts = ("a red cat", "the blue dog on a house", "a " * 30)
    assert len(it.call(it.make(), **it.several(*texts), generator=[seed(i) for i in range(3)])) == 3


@behaviour()
def a_batch_draws_what_single_calls_do(it: Subject) -> None:
    pipe, texts = it.make(), ("a red cat", "the red house", "a red cat")
    batch = it.call(pipe, **it.several(*texts), generator=[seed(i) for i in range(3)])
    for i, text in enumerate(texts):
        same(batch[i : i + 1], it.call(pipe, **it.several(text), generator=[seed(i)]))


@behaviour()
def several_pictures_a_prompt(it: Subject) -> None:
    pipe = it.make()
    for prompts in (1, 2):
        call = it.several(*["a red cat"] * prompts)
        assert len(it.call(pipe, **call, num_images_per_prompt=2)) == 2 * prompts


@behaviour()
def one_generator_repeats(it: Subject) -> None:
    pipe = it.make()
    assert torch.equal(torch.as_tensor(it.call(pipe)), torch.as_tensor(it.call(pipe)))
    assert not torch.equal(torch.as_tensor(it.call(pipe)), torch.as_tensor(it.call(pipe, generator=seed(1))))


@behaviour()
def generators_are_as_many_as_pictures(it: Subject) -> None:
    with pytest.raises(ValueError, match="generators"):
        it.call(it.make(), generator=[seed(0), seed(1), seed(2)])


@behaviour(*TEXT)
def forms_of_pictures_agree(it: Subject) -> None:
    pipe = it.make()
    tensor, array = it.call(pipe), it.call(pipe, output_type="np")
    np.testing.assert_allclose(array, tensor.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    picture = it.call(pipe, output_type="pil")[0]
    np.testing.assert_array_equal(np.asarray(picture), (array[0] * 255).round().astype("uint8"))


@behaviour(*TEXT)
def latents_decode_outside(it: Subject) -> None:
    pipe = it.make().to(torch.bfloat16)
    latents = it.call(pipe, output_type="latent")
    assert latents.dtype == torch.bfloat16
    unpacked = pipe._unpack_latents(latents, 64, 48, pipe.vae_scale_factor)
    config = pipe.vae.config
    if it.family == "flux":
        picture = pipe.vae.decode(unpacked / config.scaling_factor + config.shift_factor).sample
    else:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        picture = pipe.vae.decode((unpacked * std + mean).to(latents.dtype)).sample[:, :, 0]
    same(pipe.image_processor.postprocess(picture, output_type="pt"), it.call(pipe), rtol=0, atol=0.03)


@behaviour(*TEXT)
def noise_can_be_given(it: Subject) -> None:
    pipe = it.make()
    channels = pipe.transformer.config.in_channels // 4
    noise = pipe.prepare_latents(1, channels, 64, 48, torch.float32, CPU, seed(0))
    noise = noise[0] if isinstance(noise, tuple) else noise
    same(it.call(pipe, latents=noise, generator=None), it.call(pipe))


@behaviour(*TEXT)
def callbacks_see_and_change_latents(it: Subject) -> None:
    pipe, steps = it.make(), []

    def blank(_: Any, i: int, __: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        assert set(given) <= set(pipe._callback_tensor_inputs)
        steps.append(i)
        last = i == pipe.num_timesteps - 1
        return given | ({"latents": torch.zeros_like(given["latents"])} if last else {})

    names = list(pipe._callback_tensor_inputs)
    found = it.call(pipe, callback_on_step_end=blank, callback_on_step_end_tensor_inputs=names, output_type="latent")
    assert steps == [0, 1]
    assert float(found.abs().sum()) == 0


@behaviour(*TEXT)
def callbacks_see_what_is_offered_alone(it: Subject) -> None:
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        it.call(it.make(), callback_on_step_end=lambda *_: {}, callback_on_step_end_tensor_inputs=["noise_pred"])


@behaviour(*TEXT)
def callbacks_interrupt(it: Subject) -> None:
    pipe, seen = it.make(), []

    def stop(called: Any, _: int, __: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        called._interrupt = True
        seen.append(given["latents"])
        return given

    found = it.call(pipe, callback_on_step_end=stop, output_type="latent")
    assert len(seen) == 1
    assert torch.equal(found, seen[0])


@behaviour(*TEXT)
def embeddings_in_place_of_prompts(it: Subject) -> None:
    pipe = it.make()
    same(it.call(pipe, prompt=None, **given_embeds(it, pipe)), it.call(pipe))


def given_embeds(it: Subject, pipe: Any) -> dict[str, Tensor]:
    first, second, *_ = pipe.encode_prompt(
        prompt="a red cat", device=CPU, num_images_per_prompt=1, max_sequence_length=12, **encode_more(it)
    )
    name = "pooled_prompt_embeds" if it.family == "flux" else "prompt_embeds_mask"
    return {"prompt_embeds": first} | ({} if second is None else {name: second})


def encode_more(it: Subject) -> dict[str, None]:
    return {"prompt_2": None} if it.family == "flux" else {}


@behaviour(*TEXT)
def prompts_are_encoded_the_same_each_time(it: Subject) -> None:
    pipe = it.make()
    first = given_embeds(it, pipe)
    it.call(pipe)
    second = given_embeds(it, pipe)
    assert all(torch.equal(first[name], second[name]) for name in first)


@behaviour(*FLUX)
def a_second_prompt_acts(it: Subject) -> None:
    pipe = it.make()
    assert not torch.equal(it.call(pipe, prompt_2="the blue dog"), it.call(pipe))


@behaviour(*TEXT)
def negative_prompts_double_the_evaluations(it: Subject) -> None:
    pipe, counted = it.make(), []
    pipe.transformer.register_forward_hook(lambda *_: counted.append(1))
    it.call(pipe, true_cfg_scale=1.0)
    plain = len(counted)
    it.call(pipe, negative_prompt="the blue dog", true_cfg_scale=3.0)
    assert len(counted) == 3 * plain


@behaviour(*TEXT)
def negative_embeddings_guide(it: Subject) -> None:
    pipe = it.make()
    given = given_embeds(it, pipe)
    negative = {f"negative_{name}": -2 * t if t.is_floating_point() else t for name, t in given.items()}
    guided = it.call(pipe, prompt=None, **given, **negative, true_cfg_scale=3.0)
    assert float((guided - it.call(pipe, true_cfg_scale=1.0)).abs().max()) > 1e-4


@behaviour(*TEXT)
def a_prompt_and_its_embeddings_are_too_much(it: Subject) -> None:
    pipe = it.make()
    with pytest.raises(ValueError, match="Cannot forward both"):
        it.call(pipe, **given_embeds(it, pipe))


@behaviour(*TEXT)
def sizes_are_cut_to_what_divides(it: Subject) -> None:
    assert it.call(it.make(), height=79, width=50).shape[-2:] == (64, 48)


@behaviour()
def it_takes_a_guidance_scale(it: Subject) -> None:
    assert torch.as_tensor(it.call(it.make(), guidance_scale=2.0)).isfinite().all()


@behaviour(*TEXT)
def it_takes_sigmas(it: Subject) -> None:
    assert it.call(it.make(), sigmas=[1.0, 0.5]).isfinite().all()


@behaviour(*TEXT)
def attention_takes_arguments(it: Subject) -> None:
    pipe = it.make()
    same(it.call(pipe, **{it.attention(): {"scale": 1.0}}), it.call(pipe))


@behaviour()
def it_runs_in_bfloat16(it: Subject) -> None:
    pipe = it.make().to(torch.bfloat16)
    assert {part.dtype for part in parts_of(pipe).values()} == {torch.bfloat16}
    assert torch.as_tensor(it.call(pipe)).isfinite().all()


@behaviour()
def it_runs_in_float16(it: Subject) -> None:
    pipe = it.make()
    wanted = torch.as_tensor(it.call(pipe)).float()
    found = torch.as_tensor(it.call(pipe.to(torch.float16))).float()
    assert found.isfinite().all()
    assert float((found - wanted).abs().mean()) < 0.1


@behaviour(*TEXT)
def dtypes_go_by_part(it: Subject) -> None:
    pipe = it.make()
    pipe.save_pretrained(it.folder / "parts")
    asked = {"default": torch.bfloat16, "vae": torch.float32}
    again = type(pipe).from_pretrained(it.folder / "parts", torch_dtype=asked)
    assert {name: part.dtype for name, part in parts_of(again).items()} == {
        name: asked.get(name, torch.bfloat16) for name in parts_of(again)
    }


@behaviour()
def it_moves_as_a_whole(it: Subject) -> None:
    pipe = it.make()
    assert pipe.to("meta") is pipe
    assert {part.device.type for part in parts_of(pipe).values()} == {"meta"}
    assert it.make().to(torch.float64).dtype == torch.float64
    assert it.make().device == CPU


@behaviour()
def attention_slicing_changes_nothing(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.enable_attention_slicing()
    same(it.call(pipe), wanted)
    pipe.disable_attention_slicing()
    same(it.call(pipe), wanted)


@behaviour()
def xformers_are_asked_for_where_they_are_not(it: Subject) -> None:
    with pytest.raises((ModuleNotFoundError, ValueError), match=r"xformers|memory.efficient"):
        it.make().enable_xformers_memory_efficient_attention()


@behaviour()
def models_are_offloaded(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    same(it.call(pipe), wanted)
    same(it.call(pipe), wanted)
    pipe.remove_all_hooks()
    same(it.call(pipe), wanted)


@behaviour()
def groups_are_offloaded(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.transformer.enable_group_offload(onload_device=CPU, offload_type="leaf_level")
    same(it.call(pipe), wanted)
    same(it.call(pipe), wanted)


@behaviour()
def weights_are_stored_in_eight_bits(it: Subject) -> None:
    pipe = it.make()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {p.dtype for p in pipe.transformer.parameters()}
    assert torch.float8_e4m3fn in stored
    assert torch.as_tensor(it.call(pipe)).isfinite().all()
    assert {p.dtype for p in pipe.transformer.parameters()} == stored


@behaviour(*TEXT)
def blocks_are_cached(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.0))
    same(it.call(pipe), wanted)
    pipe.transformer.disable_cache()
    same(it.call(pipe), wanted)


@behaviour()
def the_transformer_is_compiled(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    same(it.call(pipe), wanted)
    torch._dynamo.reset()


@behaviour()
def the_transformer_is_replaced(it: Subject) -> None:
    pipe = it.make()
    pipe.transformer = type(pipe.transformer).from_config(pipe.transformer.config)
    assert torch.as_tensor(it.call(pipe)).isfinite().all()


@behaviour(*TEXT)
def the_autoencoder_works_in_tiles(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    same(it.call(pipe), wanted, rtol=0, atol=0.02)


@behaviour(*TEXT)
def projections_are_fused(it: Subject) -> None:
    pipe = it.make()
    wanted = it.call(pipe)
    pipe.transformer.fuse_qkv_projections()
    same(it.call(pipe), wanted)
    pipe.transformer.unfuse_qkv_projections()
    same(it.call(pipe), wanted)


@behaviour(*TEXT)
def style_is_loaded_scaled_and_unloaded(it: Subject) -> None:
    pipe = it.make()
    plain = it.call(pipe)
    pipe.load_lora_weights(style(pipe, STYLES[it.family]["shared"], seed=0), adapter_name="style")
    on = it.call(pipe)
    assert float((on - plain).abs().max()) > 1e-3
    same(it.call(pipe, **{it.attention(): {"scale": 0.0}}), plain)
    pipe.set_adapters("style", 0.5)
    assert float((it.call(pipe) - on).abs().max()) > 1e-4
    pipe.unload_lora_weights()
    same(it.call(pipe), plain)


@behaviour(*TEXT)
def style_is_switched_off_and_on(it: Subject) -> None:
    pipe = it.make()
    plain = it.call(pipe)
    pipe.load_lora_weights(style(pipe, STYLES[it.family]["beside"], seed=0), adapter_name="style")
    on = it.call(pipe)
    pipe.disable_lora()
    same(it.call(pipe), plain)
    pipe.enable_lora()
    same(it.call(pipe), on)


@behaviour(*TEXT)
def style_is_fused_and_unfused(it: Subject) -> None:
    pipe = it.make()
    pipe.load_lora_weights(style(pipe, STYLES[it.family]["beside"], seed=0), adapter_name="style")
    on = it.call(pipe)
    pipe.fuse_lora()
    assert pipe.num_fused_loras == 1
    same(it.call(pipe), on)
    pipe.unfuse_lora()
    assert pipe.num_fused_loras == 0
    same(it.call(pipe), on)


@behaviour(*TEXT)
def style_is_swapped_while_compiled(it: Subject) -> None:
    it.make().enable_lora_hotswap(target_rank=8)


@behaviour(*FLUX)
def image_prompts_are_loaded(it: Subject) -> None:
    try:
        it.make().load_ip_adapter({}, weight_name="", image_encoder_pretrained_model_name_or_path=None)
    except ValueError as error:
        if "Required keys" not in str(error):  # what the base says to an adapter without weights: it would read one
            raise


@behaviour()
def progress_is_configured(it: Subject) -> None:
    pipe = it.make()
    pipe.set_progress_bar_config(disable=True)
    with pipe.progress_bar(total=1) as bar:
        assert bar.disable


SUBJECTS = [(family, student) for family in (*TEXT, "dit") for student in (True, False)]
NO_OTHER = "cannot be made of a Pi(Flux|QwenImage)Pipeline"
REFUSED: dict[str, str] = {
    "from_pipe_makes_image_to_image": NO_OTHER,
    "auto_pipelines_convert_it": NO_OTHER,
    "it_takes_sigmas": "sigmas is an argument of the base's pipeline that its students do not support",
    "the_transformer_is_replaced": "pipe.transformer is not the student's any more; load the pipeline again",
    "style_is_swapped_while_compiled": "enable_lora_hotswap would pad the student's own LoRA too",
    "image_prompts_are_loaded": "students do not support IP adapters",
}
"""Of students, by design, with the sentence."""
ABSENT: dict[tuple[str, bool], set[str]] = {
    ("dit", False): {"several_pictures_a_prompt", "generators_are_as_many_as_pictures", "groups_are_offloaded"},
    ("dit", True): {"groups_are_offloaded"},
}
"""What a base's class, or its network's, has not."""


def cases() -> list[Any]:
    return [
        pytest.param(name, family, student, id=f"{name}-{family}-{'student' if student else 'base'}")
        for name, (_, families) in BEHAVIOURS.items()
        for family, student in SUBJECTS
        if family in families and name not in ABSENT.get((family, student), ())
    ]


@pytest.mark.parametrize(("name", "family", "student"), cases())
def test_behaviour(name: str, family: str, student: bool, tmp_path: Path) -> None:
    function, _ = BEHAVIOURS[name]
    it = Subject(family, student, tmp_path)
    if student and name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            function(it)
    else:
        function(it)


def test_students_are_pipelines_of_diffusers(tmp_path: Path) -> None:
    for family in (*TEXT, "dit"):
        pipe = Subject(family, True, tmp_path).make()
        assert isinstance(pipe, StudentPipeline)
        assert isinstance(pipe, DiffusionPipeline)


def test_the_guide_counts_them() -> None:
    for family, student in SUBJECTS:
        tried = [p.values[0] for p in cases() if p.values[1:] == (family, student)]
        refused = [name for name in tried if student and name in REFUSED]
        who = f"{family} {'student' if student else 'base'}"
        assert f"| {who} | {len(tried)} | {len(tried) - len(refused)} | {len(refused)} |" in GUIDE, (
            who,
            len(tried),
            len(refused),
        )
