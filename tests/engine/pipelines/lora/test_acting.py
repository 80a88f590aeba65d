"""Style LoRA that act beside the student's own: loaded, scaled, switched and taken away."""

from pathlib import Path

import pytest
import torch
from styles import KINDS, distance, load_both, own_lora_acts
from tiny_pipelines import STYLES, latents, merged_pipeline, pipeline, style
from torch import Tensor

from piflow_cli.core.adapter import ADAPTER
from piflow_cli.engine.pipelines.student import StudentPipeline

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*was trained on"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_loading_changes_pictures_and_unloading_restores_them(
    pipe: StudentPipeline, family: str, plain: Tensor, kind: str
) -> None:
    names = list(pipe.transformer.state_dict())
    pipe.load_lora_weights(style(pipe, STYLES[family][kind], seed=0), adapter_name="style")
    assert pipe.get_active_adapters() == [ADAPTER, "style"]
    assert pipe.get_list_adapters() == {"transformer": [ADAPTER, "style"]}
    assert own_lora_acts(pipe)
    assert distance(latents(pipe, family), plain) > 0.1
    pipe.unload_lora_weights()
    assert pipe.get_active_adapters() == [ADAPTER]
    assert pipe.get_list_adapters() == {"transformer": [ADAPTER]}
    assert list(pipe.transformer.state_dict()) == names
    assert torch.equal(latents(pipe, family), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_style_is_what_the_base_class_adds_to_the_weights(pipe: StudentPipeline, family: str, kind: str) -> None:
    """The student with its style fused by hand: base weights plus B A."""
    weights = style(pipe, STYLES[family][kind], seed=0)
    pipe.load_lora_weights(weights, adapter_name="style")
    found = latents(pipe, family)
    by_hand = pipeline(family)
    with torch.no_grad():
        for name in STYLES[family][kind]:
            layer = by_hand.transformer.get_submodule(name)
            down, up = (weights[f"transformer.{name}.lora_{side}.weight"] for side in "AB")
            getattr(layer, "base_layer", layer).weight += up @ down
    torch.testing.assert_close(found, latents(by_hand, family), rtol=0, atol=1e-3)


def test_weights_scale_the_style_alone(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    assert pipe.get_active_adapters() == [ADAPTER, "shared"]  # the last one, as in diffusers
    only_last = latents(pipe, family)
    pipe.set_adapters(list(KINDS), [0.0, 0.0])
    assert pipe.get_active_adapters() == [ADAPTER, *KINDS]
    assert torch.equal(latents(pipe, family), plain)
    pipe.set_adapters(list(KINDS), [0.0, 1.0])
    assert torch.equal(latents(pipe, family), only_last)
    pipe.set_adapters("shared", 0.5)
    half = latents(pipe, family)
    assert min(distance(half, plain), distance(half, only_last)) > 1e-3
    pipe.set_adapters(list(KINDS))
    assert distance(latents(pipe, family), only_last) > 1e-3
    pipe.set_adapters([])
    assert torch.equal(latents(pipe, family), plain)
    pipe.set_adapters([ADAPTER, "shared"], [1.0, {"transformer": 1.0}])
    assert torch.equal(latents(pipe, family), only_last)
    assert own_lora_acts(pipe)


def test_call_time_scale_is_of_the_style(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    name = "joint_attention_kwargs" if family == "flux" else "attention_kwargs"
    assert torch.equal(latents(pipe, family, **{name: {"scale": 0.25}}), plain)
    load_both(pipe, family)
    whole = latents(pipe, family)
    assert torch.equal(latents(pipe, family, **{name: {"scale": 0.0}}), plain)
    half = latents(pipe, family, **{name: {"scale": 0.5}})
    assert torch.equal(latents(pipe, family), whole)
    pipe.set_adapters("shared", 0.5)
    assert torch.equal(latents(pipe, family), half)


def test_style_rests_while_disabled(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    on = latents(pipe, family)
    pipe.disable_lora()
    pipe.disable_lora()
    assert pipe.get_active_adapters() == [ADAPTER]
    assert torch.equal(latents(pipe, family), plain)
    pipe.enable_lora()
    assert torch.equal(latents(pipe, family), on)
    pipe.disable_lora()
    pipe.set_adapters("beside")
    assert torch.equal(latents(pipe, family), plain)
    pipe.delete_adapters("shared")
    pipe.enable_lora()
    assert pipe.get_active_adapters() == [ADAPTER, "beside"]
    pipe.enable_lora()
    assert own_lora_acts(pipe)


def test_deleting_one_leaves_the_other(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    only_last = latents(pipe, family)
    pipe.set_adapters(list(KINDS))
    pipe.delete_adapters("beside")
    assert pipe.get_active_adapters() == [ADAPTER, "shared"]
    assert torch.equal(latents(pipe, family), only_last)
    pipe.delete_adapters(["shared"])
    assert torch.equal(latents(pipe, family), plain)


def test_lora_without_a_name_gets_a_free_one(pipe: StudentPipeline, family: str) -> None:
    for seed in range(3):
        pipe.load_lora_weights(style(pipe, STYLES[family]["beside"], seed=seed))
    assert pipe.get_list_adapters()["transformer"] == [ADAPTER, "default_0", "default_1", "default_2"]


def test_style_on_a_module_that_the_student_trained_acts(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    """`norm_out` exists twice, as the base's and as the student's; style LoRA know the base's name."""
    layer = pipe.transformer.norm_out.student.linear
    weights = {
        "transformer.norm_out.linear.lora_A.weight": torch.randn(2, layer.in_features),
        "transformer.norm_out.linear.lora_B.weight": torch.randn(layer.out_features, 2),
    }
    pipe.load_lora_weights(weights, adapter_name="style")
    assert distance(latents(pipe, family), plain) > 0.1
    pipe.unload_lora_weights()
    assert torch.equal(latents(pipe, family), plain)


def test_hotswap_takes_the_place_of_a_style(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=1), adapter_name="style")
    wanted = latents(pipe, family)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=0), adapter_name="style")
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=1), adapter_name="style", hotswap=True)
    assert torch.equal(latents(pipe, family), wanted)


def test_the_transformers_switch_turns_the_style_off_and_on(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    on = latents(pipe, family)
    for enable in (pipe.transformer.enable_lora, pipe.enable_lora, pipe.transformer.enable_lora):
        pipe.transformer.disable_lora()
        assert torch.equal(latents(pipe, family), plain)
        enable()
        assert torch.equal(latents(pipe, family), on)
        assert own_lora_acts(pipe)


def test_students_with_all_weights_carry_style_too(family: str, tmp_path: Path) -> None:
    pipe = merged_pipeline(family, tmp_path)
    plain = latents(pipe, family)
    load_both(pipe, family)
    assert pipe.get_active_adapters() == ["shared"]
    last = latents(pipe, family)
    assert distance(last, plain) > 0.1
    pipe.set_adapters(list(KINDS), [0.0, 0.0])
    assert torch.equal(latents(pipe, family), plain)
    pipe.set_adapters("shared")
    pipe.fuse_lora()
    torch.testing.assert_close(latents(pipe, family), last, rtol=0, atol=1e-3)
    pipe.unfuse_lora()
    pipe.disable_lora()
    torch.testing.assert_close(latents(pipe, family), plain, rtol=0, atol=1e-3)
    pipe = merged_pipeline(family, tmp_path)
    load_both(pipe, family)
    pipe.unload_lora_weights()
    assert pipe.get_list_adapters() == {}
    assert torch.equal(latents(pipe, family), plain)
