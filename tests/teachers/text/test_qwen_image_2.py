"""Qwen-Image-2.1: what its pipeline does by default, in batches and with transparency, and what is no teacher.

Shapes: B batch, C latent channels, H, W latent size.
"""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from text_students import text_student
from tiny_models import gmflow
from tiny_qwen_image_2 import tiny_qwen_image_2
from torch import Tensor

from piflow_cli import load_pipeline
from piflow_cli.core.schedule import dynamic_shift
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.plan.work import sample_flops
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import DataError, ModelError
from piflow_cli.preset import load_preset
from piflow_cli.teachers.qwen_image_2 import QwenImage2, over_white
from piflow_cli.teachers.text.teacher import TextTeacher

LENGTHS = ["a cat", "a red cat on the house beside a blue dog"]
ALIKE = ["a red cat", "a cat red"]
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_qwen_image_2(tmp_path_factory.mktemp("qwen") / "base").source)


@pytest.fixture(scope="module")
def teacher(folder: Path) -> TextTeacher:
    return tiny_qwen_image_2(folder).load()


def noise_of(teacher: TextTeacher, count: int) -> Tensor:
    return torch.randn((count, *teacher.space.latent_shape), generator=torch.Generator().manual_seed(1))


def walk(teacher: TextTeacher, x: Tensor, prompts: list[str], *, scale: float = 1.0) -> Tensor:
    """Euler's walk over the pipeline's own time grid: linear times, shifted by the number of latent positions."""
    grid = torch.linspace(1, 1 / STEPS, STEPS)
    shift = dynamic_shift(x[0, 0].numel(), base_seq_len=256, max_seq_len=4096, base_logshift=0.5, max_logshift=1.15)
    sigmas = [*(shift.m * t / (1 + (shift.m - 1) * t) for t in grid.tolist()), 0.0]
    condition = teacher.space.encode_prompts(prompts)
    for sigma, after in pairwise(sigmas):
        x = x + teacher.as_base(scale).velocity(x, torch.full((len(x),), sigma), condition) * (after - sigma)
    return x


def base_walk(teacher: TextTeacher, noise: Tensor, prompts: list[str], **options: object) -> Tensor:
    """Latents (B, C, H, W) of the base's own pipeline, called as its users call it."""
    backbone, settings = teacher.backbone, teacher.settings
    size = {"width": settings.width, "height": settings.height}
    latents = backbone.to_call(noise)
    given = teacher.space.pipeline(
        prompt=prompts, latents=latents, num_inference_steps=STEPS, output_type="latent", **size, **options
    ).images
    return backbone.from_base(given, *noise.shape[-2:])


@pytest.mark.parametrize("cached", [True, False])
def test_it_walks_as_the_pipeline_does_with_prompts_and_with_its_cache_of_keys(
    teacher: TextTeacher, cached: bool
) -> None:
    noise = noise_of(teacher, 2)
    given = base_walk(teacher, noise, ALIKE, use_kv_cache=cached)
    torch.testing.assert_close(walk(teacher, noise, ALIKE), given, rtol=0, atol=1e-4)


def test_guidance_is_the_pipelines(teacher: TextTeacher) -> None:
    noise = noise_of(teacher, 2)
    given = base_walk(teacher, noise, ALIKE, true_cfg_scale=2.5, negative_prompt=["", ""])
    torch.testing.assert_close(walk(teacher, noise, ALIKE, scale=2.5), given, rtol=0, atol=1e-4)
    assert not torch.allclose(given, walk(teacher, noise, ALIKE), atol=1e-2)


def test_a_prompt_is_what_the_pipeline_makes_of_it_alone(teacher: TextTeacher) -> None:
    noise, batch = noise_of(teacher, 2), walk(teacher, noise_of(teacher, 2), LENGTHS)
    alone = [base_walk(teacher, noise[i : i + 1], [prompt]) for i, prompt in enumerate(LENGTHS)]
    torch.testing.assert_close(batch, torch.cat(alone), rtol=0, atol=1e-4)
    padded = base_walk(teacher, noise, LENGTHS)
    torch.testing.assert_close(padded[1:], alone[1], rtol=0, atol=1e-4)
    assert not torch.allclose(padded[:1], alone[0], atol=1e-4)  # its own batch moves pictures by the padding


def test_prompts_are_cut_where_the_settings_say(folder: Path, teacher: TextTeacher) -> None:
    short = tiny_qwen_image_2(folder, max_sequence_length=6).load()
    whole, cut = teacher.space.encode_prompts(LENGTHS), short.space.encode_prompts(LENGTHS)
    torch.testing.assert_close(cut.embeds, whole.embeds[:, :6])
    assert cut.mask is None
    lengths = [int(n) for n in whole.mask.sum(1)]
    assert teacher.space.prompt_lengths(LENGTHS) == lengths
    assert short.space.dropped_tokens(LENGTHS) == [length - 6 for length in lengths]


def test_sides_are_groups_of_2x2_latents(folder: Path) -> None:
    settings = tiny_qwen_image_2(folder)
    settings.check_size(64, 96)
    with pytest.raises(DataError, match=r"width 48 is not a positive multiple of 32; the nearest one is 64"):
        settings.check_size(48, 64)


def test_pictures_are_over_white_and_pipelines_keep_their_opacity(
    teacher: TextTeacher, folder: Path, tmp_path: Path
) -> None:
    x = noise_of(teacher, 1)
    pixels = (teacher.space.to_pixels(x) / 2 + 0.5).clamp(0, 1)
    assert pixels.shape == (1, 4, 96, 64)
    expected = pixels[:, :3] * pixels[:, 3:] + 1 - pixels[:, 3:]
    torch.testing.assert_close(teacher.space.decode(x), expected)
    assert torch.equal(over_white(torch.zeros(1, 4, 2, 2)), torch.ones(1, 3, 2, 2))
    two = SamplingSettings(nfe=2, total_substeps=8)
    save_student(text_student(tiny_qwen_image_2(folder), gmflow(), sampling=two), tmp_path / "student")
    pipe = load_pipeline(tmp_path / "student")
    pipe.set_progress_bar_config(disable=True)
    assert pipe(prompt="a cat").images[0].mode == "RGBA"
    assert pipe(prompt="a cat", use_kv_cache=False, output_type="pt").images.shape == (1, 4, 96, 64)


def test_a_saved_base_keeps_the_processors_other_files(folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(folder, tmp_path / "base")
    (base / "processor" / "preprocessor_config.json").write_text('{"image_processor_type": "none of ours"}')
    two = SamplingSettings(nfe=2, total_substeps=8)
    save_student(text_student(tiny_qwen_image_2(base), gmflow(), sampling=two), tmp_path / "student")
    load_pipeline(tmp_path / "student").save_pretrained(tmp_path / "saved", save_base=True)
    names = {path.name for path in (base / "processor").iterdir()}
    assert {path.name for path in (tmp_path / "saved" / "base" / "processor").iterdir()} == names
    index = json.loads((tmp_path / "saved" / "base" / "model_index.json").read_text())
    assert index["processor"] == ["transformers", "Qwen3VLProcessor"]
    shutil.rmtree(base)
    assert load_pipeline(tmp_path / "saved").student.card.teacher.type == "qwen_image_2"


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload(folder: Path, tmp_path: Path, kind: str) -> None:
    two = SamplingSettings(nfe=2, total_substeps=8)
    save_student(text_student(tiny_qwen_image_2(folder), gmflow(), sampling=two), tmp_path / "student")

    def drawn(**options: object) -> Tensor:
        pipe = load_pipeline(tmp_path / "student")
        pipe.set_progress_bar_config(disable=True)
        if options:
            pipe.transformer.enable_group_offload(onload_device=torch.device("cpu"), **options)
        generator = torch.Generator().manual_seed(3)
        return pipe(prompt=LENGTHS, generator=generator, output_type="latent").images

    offloaded = drawn(offload_type=kind, num_blocks_per_group=1, offload_to_disk_path=str(tmp_path / "weights"))
    torch.testing.assert_close(offloaded, drawn(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_transformer_in_comfyuis_form_is_the_same(
    folder: Path, tmp_path: Path, teacher: TextTeacher, prefix: str
) -> None:
    fused = {}
    for name, tensor in teacher.module.state_dict().items():
        if name.endswith("gate_layer.weight"):
            up = teacher.module.state_dict()[name.replace("gate_layer", "proj")]
            fused[prefix + name.replace("gate_layer", "gate_up")] = torch.cat([tensor, up])
        elif not name.endswith("img_mlp.proj.weight"):
            fused[prefix + name] = tensor.clone()
    save_file(fused, tmp_path / "qwen.safetensors")
    again = tiny_qwen_image_2(folder, transformer=str(tmp_path / "qwen.safetensors")).load()
    assert all(torch.equal(p, again.module.state_dict()[n]) for n, p in teacher.module.state_dict().items())
    del fused[f"{prefix}transformer_blocks.1.img_mlp.gate_up.weight"]
    save_file(fused, tmp_path / "cut.safetensors")
    with pytest.raises(ModelError, match=r"missing transformer_blocks\.1\.img_mlp"):
        tiny_qwen_image_2(folder, transformer=str(tmp_path / "cut.safetensors")).load()


def test_a_turbo_is_no_teacher(folder: Path, tmp_path: Path) -> None:
    turbo = shutil.copytree(folder, tmp_path / "turbo")
    index = json.loads((turbo / "model_index.json").read_text())
    (turbo / "model_index.json").write_text(json.dumps(index | {"sample_sigmas": [1.0, 0.9, 0.7, 0.3]}))
    with pytest.raises(ModelError, match=r"was distilled to 4 steps at noise levels of its own \(sample_sigmas\)"):
        QwenImage2(source=str(turbo)).check_source()


def test_work_is_counted_at_the_real_size() -> None:
    preset = load_preset("qwen-2-4nfe")
    width, text, image, channels, times = 4096, 512, 64 * 64, 64, 2 * 256
    tokens = text + image
    linear = tokens * (4 + 3 * 3) * width**2
    attention = 2 * width * (image * tokens + text**2)  # text among itself, the picture with all
    ends = image * channels * width + text * 2 * width**2 + tokens * width * channels
    embedding = times * width + 2 * 5 * width**2  # of two times, the second is 0 for text, with the shared modulation
    modulated = 2 * width**2  # of the last norm
    expected = 2 * (32 * (linear + attention) + ends + embedding + modulated)
    assert sample_flops(preset).teacher == expected
