"""The student's own LoRA: a style and a call leave it as it was."""

import pytest
import torch
from peft import LoraConfig
from styles import layers_of, load_both, own_lora_acts
from tiny_pipelines import STYLES, latents, style
from torch import Tensor

from piflow_cli.core.adapter import ADAPTER
from piflow_cli.engine.pipelines.student import StudentPipeline
from piflow_cli.errors import ModelError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*was trained on"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute"),
]


def test_the_students_own_lora_cannot_be_touched(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    weights = style(pipe, STYLES[family]["shared"], seed=0)
    for attempt in (
        lambda: pipe.load_lora_weights(weights, adapter_name=ADAPTER),
        lambda: pipe.load_lora_weights(weights, adapter_name=ADAPTER, hotswap=True),
        lambda: pipe.delete_adapters(ADAPTER),
        lambda: pipe.fuse_lora(adapter_names=[ADAPTER]),
    ):
        with pytest.raises(ValueError, match="'piflow' is the student's own LoRA"):
            attempt()
    with pytest.raises(ValueError, match="stays at weight 1"):
        pipe.set_adapters([ADAPTER], [0.5])
    with pytest.raises(ValueError, match="would pad the student's own LoRA"):
        pipe.enable_lora_hotswap(target_rank=8)
    assert torch.equal(latents(pipe, family), plain)


def test_own_lora_comes_back_from_the_transformers_methods(pipe: StudentPipeline, family: str, plain: Tensor) -> None:
    load_both(pipe, family)
    last = latents(pipe, family)
    pipe.transformer.set_adapters(["shared"])
    assert torch.equal(latents(pipe, family), last)
    pipe.transformer.set_adapters([ADAPTER, "shared"], [0.0, 1.0])
    assert torch.equal(latents(pipe, family), last)
    pipe.transformer.disable_lora()
    assert torch.equal(latents(pipe, family), plain)
    pipe.enable_lora()
    assert torch.equal(latents(pipe, family), last)
    pipe.transformer.fuse_lora(adapter_names=["shared"])
    with pytest.raises(ValueError, match=r"fused by the transformer's own method; call pipe\.fuse_lora"):
        latents(pipe, family)
    pipe.transformer.unfuse_lora()
    pipe.transformer.unload_lora()
    with pytest.raises(ModelError, match="own LoRA is gone from"):
        latents(pipe, family)


def test_a_call_leaves_what_is_trained_and_active_as_it_was(pipe: StudentPipeline, family: str) -> None:
    pipe.load_lora_weights(style(pipe, STYLES[family]["shared"], seed=0), adapter_name="style")
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "mine")
    trained = {name for name, p in pipe.transformer.named_parameters() if p.requires_grad}
    assert trained
    assert all(".mine." in name for name in trained)
    before = {name: (layer.active_adapters, layer.disable_adapters) for name, layer in layers_of(pipe)}
    latents(pipe, family)
    assert {name for name, p in pipe.transformer.named_parameters() if p.requires_grad} == trained
    assert {name: (layer.active_adapters, layer.disable_adapters) for name, layer in layers_of(pipe)} == before
    pipe.set_adapters(["style", "mine"], [0.5, 1.0])
    pipe.disable_lora()
    pipe.enable_lora()
    latents(pipe, family)
    assert {name for name, p in pipe.transformer.named_parameters() if p.requires_grad} == trained
    assert own_lora_acts(pipe)
