"""Operations are counted on the module: against arithmetic by hand, and the shallow count against the whole module."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from piflow_cli.engine.plan.work import gpu_named, hours, sample_flops, step_flops, utilisation
from piflow_cli.preset import load_preset


def test_a_dit_forward_by_hand() -> None:
    """A linear layer is 2 N D_in D_out, attention 4 N^2 D; what sees the condition alone runs once a sample."""
    preset = load_preset("digits-1nfe")
    module, backbone = preset.teacher.describe()
    tokens = module.config.sample_size**2 // backbone.layout.positions
    width, once = module.inner_dim, ("norm1", "emb", "proj_out_1")
    flops = 0
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            rows = 1 if any(part in name.split(".") for part in once) else tokens
            calls = len(module.transformer_blocks) + 1 if ".emb." in name else 1
            flops += 2 * rows * calls * layer.weight.numel()
    flops += len(module.transformer_blocks) * 4 * tokens**2 * width
    flops += 2 * tokens * module.pos_embed.proj.weight.numel()
    assert sample_flops(preset).teacher == pytest.approx(flops, rel=0.02)


@pytest.mark.parametrize("name", ["digits-1nfe", "emoji-4nfe"])
def test_blocks_counted_once_add_up_to_the_whole_module(name: str) -> None:
    preset = load_preset(name)
    module, backbone = preset.teacher.describe()
    size = preset.teacher.latent_size(module, None)
    module = module.to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x = torch.zeros(1, backbone.latent_channels, *size, device="meta")
        backbone.predict(module, x, torch.ones(1, device="meta"), preset.teacher.dummy_condition(module, 1))
    assert sample_flops(preset).teacher == counter.get_total_flops()


def test_a_step_is_the_batch_the_segments_and_what_is_asked() -> None:
    changes = ["training.batch_size=8", "teacher.guidance_scale=2"]
    preset = load_preset("digits-1nfe", changes)
    flops = sample_flops(preset)
    assert step_flops(preset) == 8 * (flops.student + preset.objective.num_intermediates * 2 * flops.teacher)
    recomputing = sample_flops(load_preset("digits-1nfe", ["training.gradient_checkpointing=true"]))
    assert flops.student < recomputing.student < flops.student + flops.teacher


def test_hours_and_utilisation_are_each_others_inverse() -> None:
    needed = hours(10**18, tflops=100, utilisation=0.5, gpus=4)
    assert needed == pytest.approx(1e18 / (100e12 * 0.5 * 4) / 3600)
    assert utilisation(10**18, wall_s=needed * 3600, tflops=100, gpus=4) == pytest.approx(0.5)
    assert gpu_named("NVIDIA H100 80GB HBM3").tflops == 989.4
    assert gpu_named("NVIDIA GeForce RTX 4090").watts == 450
    assert gpu_named("Tesla T4") is None
