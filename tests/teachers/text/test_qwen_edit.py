"""Qwen-Image-Edit: prompts and pictures are encoded as the pipelines do it, and scaled to the areas that they have."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_qwen_edit import DIVISOR, tiny_qwen_edit, tiny_qwen_edit_single

from piflow_cli.core.conditions import Instruction
from piflow_cli.engine.check.find import family_of
from piflow_cli.teachers.qwen_image_edit.family import QwenImageEdit
from piflow_cli.teachers.recording import recorded_calls

PICTURES = [Image.linear_gradient("L").convert("RGB").resize((96, 64)), Image.new("RGB", (64, 128), "red")]
PIPELINES = {"plus": (tiny_qwen_edit, 2), "single": (tiny_qwen_edit_single, 1)}


@pytest.mark.parametrize(("make", "number"), PIPELINES.values(), ids=PIPELINES)
def test_the_base_encodes_the_same_of_words_and_pictures(
    tmp_path: Path, make: Callable[..., QwenImageEdit], number: int
) -> None:
    """The whole call of the base, from prompt and pictures to what its network gets, with guidance."""
    settings = make(tmp_path / "base", negative_prompt="the house")
    assert family_of(settings.source) == "qwen_image_edit"
    teacher, about = settings.load(), tuple(PICTURES[:number])
    space = teacher.space
    condition = space.encode_prompts([Instruction("a red cat", about)])
    with recorded_calls(teacher.module) as calls:
        space.pipeline(
            **space.picture_arguments(about),
            prompt="a red cat",
            negative_prompt="the house",
            true_cfg_scale=2.0,
            num_inference_steps=1,
            width=48,
            height=64,
            output_type="latent",
        )
    with_prompt, against = calls
    torch.testing.assert_close(with_prompt["encoder_hidden_states"], condition.embeds, rtol=1e-5, atol=1e-5)
    negative = condition.references.negative.embeds
    torch.testing.assert_close(against["encoder_hidden_states"], negative, rtol=1e-5, atol=1e-5)
    own = (64 // 8 // 2) * (48 // 8 // 2)
    tokens = with_prompt["hidden_states"][:, own:]
    torch.testing.assert_close(tokens, condition.references.tokens, rtol=1e-5, atol=1e-5)
    assert with_prompt["img_shapes"][0][1:] == [(1, *size) for size in condition.references.sizes[0]]


def test_sizes_go_by_the_picture_that_the_pipeline_goes_by(tmp_path: Path) -> None:
    space = tiny_qwen_edit(tmp_path / "base").load_space(encoders=False)
    wide, tall = space.size_about(PICTURES[:1]), space.size_about(PICTURES)
    assert wide[0] > wide[1]
    assert tall[0] < tall[1]
    for width, height in (wide, tall):
        assert width * height == pytest.approx(1024 * 1024 / DIVISOR, rel=0.3)
    assert space.size_about([]) == space.size_px
