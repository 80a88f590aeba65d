"""Styles that change FLUX's first text encoder too."""

from typing import Any

import pytest
import torch
from styles import distance
from tiny_pipelines import STYLES, pipeline, style
from torch import Tensor

from piflow_cli.core.adapter import ADAPTER
from piflow_cli.engine.pipelines.student import StudentPipeline

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*was trained on"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute"),
]


def encoder_style(pipe: StudentPipeline, *, seed: int = 0) -> dict[str, Tensor]:
    """A made-up LoRA of FLUX's first text encoder, as diffusers stores one."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for name in ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.v_proj"):
        layer = pipe.text_encoder.get_submodule(name)
        for side, shape in (("A", (2, layer.in_features)), ("B", (layer.out_features, 2))):
            weights[f"text_encoder.text_model.{name}.lora_{side}.weight"] = torch.randn(shape, generator=generator)
    return weights


def draw(pipe: StudentPipeline) -> Tensor:
    """Latents of FLUX of a prompt that the text encoders read."""
    call: dict[str, Any] = {"height": 64, "width": 48, "max_sequence_length": 12, "output_type": "latent"}
    return pipe("a red cat", generator=torch.Generator().manual_seed(0), **call).images


def test_style_of_a_text_encoder_is_flux_alone() -> None:
    pipe = pipeline("flux")
    plain = draw(pipe)
    pipe.load_lora_weights(encoder_style(pipe) | style(pipe, STYLES["flux"]["beside"], seed=0), adapter_name="style")
    assert pipe.get_active_adapters() == [ADAPTER, "style"]
    both = draw(pipe)
    pipe.set_adapters("style", {"transformer": 0.0, "text_encoder": 1.0})
    text_alone = draw(pipe)
    assert min(distance(text_alone, plain), distance(text_alone, both)) > 1e-2
    pipe.set_adapters("style")
    pipe.fuse_lora(["transformer", "text_encoder"])
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    pipe.unfuse_lora()
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    pipe.disable_lora()
    torch.testing.assert_close(draw(pipe), plain, rtol=0, atol=1e-3)
    pipe.unload_lora_weights()
    assert pipe.get_list_adapters() == {"transformer": [ADAPTER]}
    torch.testing.assert_close(draw(pipe), plain, rtol=0, atol=1e-3)


def test_fusing_the_transformer_leaves_the_text_encoders_half_acting() -> None:
    pipe = pipeline("flux")
    plain = draw(pipe)
    pipe.load_lora_weights(encoder_style(pipe) | style(pipe, STYLES["flux"]["beside"], seed=0), adapter_name="style")
    both = draw(pipe)
    pipe.fuse_lora()  # as in diffusers: the transformer
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    pipe.load_lora_weights(style(pipe, STYLES["flux"]["shared"], seed=1), adapter_name="other")
    more = draw(pipe)
    pipe.set_adapters("other", 0.0)
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    pipe.set_adapters("other")
    torch.testing.assert_close(draw(pipe), more, rtol=0, atol=1e-3)
    pipe.disable_lora()
    fused_alone = draw(pipe)
    assert min(distance(fused_alone, plain), distance(fused_alone, both)) > 1e-3
    pipe.enable_lora()
    torch.testing.assert_close(draw(pipe), more, rtol=0, atol=1e-3)
    pipe.delete_adapters("other")
    pipe.fuse_lora(["text_encoder"], adapter_names=["style"])
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    pipe.unfuse_lora(["transformer"])
    assert pipe.fused_loras == {"style"}
    pipe.unfuse_lora()
    assert pipe.fused_loras == set()
    torch.testing.assert_close(draw(pipe), both, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="text_encoder_2 carries no LoRA; one of transformer, text_encoder"):
        pipe.fuse_lora(["text_encoder_2"])
