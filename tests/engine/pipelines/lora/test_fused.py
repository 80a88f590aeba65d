"""Styles fused into the weights, and projections fused into one."""

import pytest
import torch
from styles import KINDS, distance, load_both, own_lora_acts
from tiny_pipelines import STYLES, latents, pipeline, style
from torch import Tensor

from piflow_cli.core.adapter import ADAPTER
from piflow_cli.engine.pipelines.student import StudentPipeline

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*was trained on"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute"),
]


def test_fused_style_acts_beside_the_students_lora(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    pipe.set_adapters(list(KINDS), [1.0, 0.5])
    live = latents(pipe, family)
    pipe.fuse_lora()
    assert pipe.fused_loras == set(KINDS)
    assert pipe.get_active_adapters() == [ADAPTER]
    assert own_lora_acts(pipe)
    assert 0 < distance(latents(pipe, family), live) < 1e-3
    with pytest.raises(ValueError, match="beside is fused into the weights; call unfuse_lora first"):
        pipe.set_adapters("beside")
    with pytest.raises(ValueError, match="shared is fused already"):
        pipe.fuse_lora(adapter_names=["shared"])
    pipe.unfuse_lora()
    assert pipe.num_fused_loras == 0
    torch.testing.assert_close(latents(pipe, family), live, rtol=0, atol=1e-3)
    pipe.unload_lora_weights()
    torch.testing.assert_close(latents(pipe, family), plain, rtol=0, atol=1e-3)


def test_fused_style_stays_when_its_lora_is_unloaded(pipe: StudentPipeline, family: str) -> None:
    load_both(pipe, family)
    pipe.set_adapters("shared", 0.5)
    half = latents(pipe, family)
    pipe.set_adapters("shared")
    pipe.fuse_lora(lora_scale=0.5, adapter_names=["shared"])
    pipe.unload_lora_weights()
    torch.testing.assert_close(latents(pipe, family), half, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="shared was unloaded after it was fused"):
        pipe.unfuse_lora()


def test_load_fuse_unload_goes_round(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    by_hand = pipeline(family)
    for seed in range(3):
        pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=seed))
        by_hand.load_lora_weights(style(by_hand, STYLES[family]["shared"], seed=seed), adapter_name=f"style{seed}")
        by_hand.set_adapters([f"style{i}" for i in range(seed + 1)])
        wanted = latents(by_hand, family)
        torch.testing.assert_close(latents(pipe, family), wanted, rtol=0, atol=1e-3)
        pipe.fuse_lora()
        pipe.unload_lora_weights()
        torch.testing.assert_close(latents(pipe, family), wanted, rtol=0, atol=1e-3)
    assert pipe.num_fused_loras == 3
    pipe.load_lora_weights(style(pipe, STYLES[family]["beside"], seed=0), adapter_name="last")
    pipe.fuse_lora()
    pipe.unfuse_lora()  # what can be taken out is
    pipe.set_adapters("last", 0.0)
    torch.testing.assert_close(latents(pipe, family), wanted, rtol=0, atol=1e-3)
    assert pipe.num_fused_loras == 3
    pipe.unload_lora_weights()
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=0), adapter_name="default_0")  # a name used up
    pipe.set_adapters("default_0", 0.5)
    assert own_lora_acts(pipe)
    assert distance(latents(pipe, family), plain) > 0.1


def test_fused_projections_keep_lora_or_are_refused(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    pipe.transformer.fuse_qkv_projections()
    torch.testing.assert_close(latents(pipe, family), plain, rtol=0, atol=1e-3)
    pipe.load_lora_weights(style(pipe, STYLES[family]["beside"], seed=0), adapter_name="style")
    if family == "qwen":  # whose attention diffusers does not fuse
        assert distance(latents(pipe, family), plain) > 0.1
        return
    with pytest.raises(
        ValueError, match=r"fuse_qkv_projections leaves out \d layers with LoRA, such as transformer_bl"
    ):
        latents(pipe, family)
    pipe.transformer.unfuse_qkv_projections()
    styled = latents(pipe, family)
    assert distance(styled, plain) > 0.1
    pipe.fuse_lora()
    pipe.transformer.fuse_qkv_projections()
    torch.testing.assert_close(latents(pipe, family), styled, rtol=0, atol=1e-3)
