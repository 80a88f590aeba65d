"""Every argument of every base's call on its students' pipelines, which act on it or refuse it, and `from_pipe`."""

import ast
import inspect
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from text_students import text_student
from tiny_models import DIGIT_NAMES, EDITING, TEACHERS, gmflow, save_teacher, student_of
from torch import Tensor

from piflow_cli import load_pipeline
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.pipelines import pipeline_of
from piflow_cli.engine.pipelines.student import StudentPipeline
from piflow_cli.engine.students.save import save_student
from piflow_cli.teachers.dit.family import DiT

PROMPT, OTHER = "a red cat", "blue dog on the house"
TWO_STEPS = SamplingSettings(nfe=2, total_substeps=8)
PICTURE = torch.zeros(1, 3, 8, 8)
REFUSED: dict[str, Any] = {
    "sigmas": [1.0, 0.5],
    "ip_adapter_image": PICTURE,
    "ip_adapter_image_embeds": [PICTURE],
    "negative_ip_adapter_image": PICTURE,
    "negative_ip_adapter_image_embeds": [PICTURE],
    "text_encoder_out_layers": (1, 2, 3),
    "caption_upsample_temperature": 0.15,
    "clip_skip": 1,
    "skip_guidance_layers": [1],
    "skip_layer_guidance_scale": 1.5,
    "skip_layer_guidance_stop": 0.5,
    "skip_layer_guidance_start": 0.1,
    "mu": 1.0,
    "cfg_normalization": True,
    "cfg_truncation": 0.5,
    "output_resolution": 512,
    "guidance_scale_2": 3.0,
}
"""Arguments that mean nothing to students, and a value of each."""


def prepared(name: str, folder: Path) -> StudentPipeline:
    """The pipeline of an untrained student of a small teacher."""
    if name == "dit":
        base = save_teacher(folder / "base", labels=DIGIT_NAMES, in_channels=1, out_channels=1)
        pipe = pipeline_of(student_of(DiT(source=str(base), guidance_scale=1.5)))
    else:
        save_student(text_student(TEACHERS[name](folder / "base"), gmflow(), sampling=TWO_STEPS), folder / "student")
        pipe = load_pipeline(folder / "student")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=[name for name in TEACHERS if name not in EDITING])
def pipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StudentPipeline:
    return prepared(request.param, tmp_path_factory.mktemp(request.param))


def call_of(pipe: StudentPipeline) -> dict[str, inspect.Parameter]:
    """The arguments of the base's own call."""
    base = diffusers.DiTPipeline if pipe.teacher_type == "dit" else pipe.student.space.base_class
    return dict(list(inspect.signature(base.__call__).parameters.items())[1:])


def drawn(pipe: StudentPipeline, *, seed: int = 3, **arguments: Any) -> Tensor:
    """Latents of a prompt, or of a class, and of what else is asked for."""
    asked = {"class_labels": ["three"]} if pipe.teacher_type == "dit" else {"prompt": PROMPT}
    if "prompt_embeds" in arguments:
        asked = {}
    usual = {"generator": torch.Generator().manual_seed(seed), "output_type": "latent"}
    return next(iter(pipe(**asked | usual | arguments).values()))  # images, or frames


def encoded(pipe: StudentPipeline, prompt: str) -> dict[str, Any]:
    """Embeddings of a prompt as the base's call takes them."""
    space = pipe.student.space
    return space.base_arguments(space.encode_prompts([prompt]))


def guided(pipe: StudentPipeline) -> dict[str, float]:
    """What asks for guidance by two passes."""
    return {"true_cfg_scale": 2.0} if "true_cfg_scale" in call_of(pipe) else {"guidance_scale": 3.0}


def changing(pipe: StudentPipeline) -> dict[str, dict[str, Any]]:
    """Arguments that another picture comes of, each with what belongs to it."""
    shape, text = pipe.student.space.latent_shape, pipe.teacher_type != "dit"
    call, negative = call_of(pipe), guided(pipe)
    found: dict[str, dict[str, Any]] = {
        "generator": {"generator": torch.Generator().manual_seed(4)},
        "num_inference_steps": {"num_inference_steps": 3},
        "class_labels": {"class_labels": [7]},
    }
    if not text:
        return found
    found |= {name: {name: OTHER} for name in call if name.removeprefix("prompt_").isdecimal() or name == "prompt"}
    found |= {name: {name: "the house"} | negative for name in call if name.startswith("negative_prompt")}
    if "negative_prompt_2" in call:
        found |= {n: found[n] | {"negative_prompt": "the"} for n in call if n.startswith("negative_prompt_")}
    others, against = encoded(pipe, OTHER), {f"negative_{n}": v for n, v in encoded(pipe, "the house").items()}
    found |= dict.fromkeys(others, others) | dict.fromkeys(against, against | negative)
    found |= {name: negative | {"negative_prompt": "the house"} for name in negative if "negative_prompt" in call}
    if pipe.student.space.embedded_guidance:
        found["guidance_scale"] = {"guidance_scale": 3.0}
    found["num_frames"] = {"num_frames": 9}
    found["latents"] = {"latents": torch.ones(1, *shape)}
    found["max_sequence_length"] = {"max_sequence_length": 3}
    found["height"] = {"height": pipe.student.space.settings.height * 2}
    found["width"] = {"width": pipe.student.space.settings.width * 2}
    found["attention_kwargs"] = found["joint_attention_kwargs"] = {}  # what they say is of style LoRA
    return found


SAME: dict[str, Any] = {
    "return_dict": True,
    "output_type": "latent",
    "num_images_per_prompt": 1,
    "num_videos_per_prompt": 1,
    "callback_on_step_end": lambda _pipe, _i, _timestep, tensors: tensors,
    "callback_on_step_end_tensor_inputs": ["latents"],
    "attention_kwargs": {"scale": 1.0},
    "joint_attention_kwargs": {"scale": 1.0},
    "use_kv_cache": False,
    "guidance_scale": 3.0,
}
"""Arguments that the same picture comes of."""


@pytest.mark.filterwarnings("ignore")
def test_every_argument_acts_as_in_the_base_or_is_refused(pipe: StudentPipeline) -> None:
    plain, acting = drawn(pipe), changing(pipe)
    for name in call_of(pipe):
        if name in REFUSED:
            with pytest.raises(
                ValueError, match=rf"^{name} is an argument of the base's pipeline that its students do"
            ):
                drawn(pipe, **{name: REFUSED[name]})
        elif acting.get(name):
            other = drawn(pipe, **acting[name])
            assert other.isfinite().all(), name
            assert other.shape != plain.shape or not torch.allclose(other, plain, atol=1e-4), name
        elif name == "image" and not pipe.student.space.num_pictures[1]:
            with pytest.raises(ValueError, match=r"^image is an argument of the base's pipeline"):
                drawn(pipe, image=["a picture"])
        elif name != "image":  # which is tried where editing is
            assert name in SAME, f"nothing says what {name} does"
            assert torch.equal(drawn(pipe, **{name: SAME[name]}), plain), name


@pytest.mark.filterwarnings("ignore")
def test_the_bases_own_values_of_what_is_refused_may_be_written_out(pipe: StudentPipeline) -> None:
    if pipe.teacher_type == "dit":
        return
    defaults = {name: repr(p.default) for name, p in call_of(pipe).items() if name in REFUSED}
    assert torch.equal(drawn(pipe, **{name: ast.literal_eval(text) for name, text in defaults.items()}), drawn(pipe))


def other_classes(pipe: StudentPipeline) -> list[type]:
    """Every class of diffusers that might be made of the pipeline: those with such a transformer, and general ones."""
    found: list[type] = [getattr(diffusers, f"AutoPipelineFor{task}") for task in TASKS] + [diffusers.DiffusionPipeline]
    own = type(pipe.student.network.module)
    for name in dir(diffusers):
        if not name.endswith("Pipeline") or not isinstance(cls := getattr(diffusers, name), type):
            continue
        hints = getattr(cls.__init__, "__annotations__", {})
        if own.__name__ in str(hints.get("transformer", "")):
            found.append(cls)
    return found


TASKS = ("Text2Image", "Image2Image", "Inpainting")
USUAL_CLASSES = 4
"""Those of no family."""


@pytest.mark.filterwarnings("ignore")
def test_no_other_class_of_pipelines_takes_the_student(pipe: StudentPipeline) -> None:
    classes, own = other_classes(pipe), type(pipe).__name__
    assert len(classes) > USUAL_CLASSES
    for cls in classes:
        with pytest.raises(ValueError, match=f"^{cls.__name__} cannot be made of a {own}: ") as refused:
            cls.from_pipe(pipe)
        said = str(refused.value)
        if cls.__name__.startswith("AutoPipelineFor"):
            assert (f"Call this pipeline as it is, make another one by {own}.from_pipe" in said) == ("Text2" in said)
            takes_pictures = pipe.student.space.num_pictures[1] > 0 and "Text2" not in said
            assert ("Pictures go into its own call (image)" in said) == takes_pictures


@pytest.mark.filterwarnings("ignore")
def test_its_own_class_does_and_draws_the_same(pipe: StudentPipeline) -> None:
    again = type(pipe).from_pipe(pipe)
    again.set_progress_bar_config(disable=True)
    assert type(again) is type(pipe)
    assert torch.equal(drawn(again), drawn(pipe))
