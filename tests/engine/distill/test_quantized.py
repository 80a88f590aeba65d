"""Training on a quantised base: what it is trained of, what it leaves alone, and that the adapter fits both bases.

Shapes: B batch, C latent channels, H, W latent size.
"""

import json
from pathlib import Path

import pytest
import torch
from quantized_on_cpu import QUANTIZATIONS, bitsandbytes_on_cpu  # noqa: F401
from safetensors.torch import load_file
from tiny_models import tiny_flux, tiny_qwen
from torch import nn

from piflow_cli.core.adapter import merged_weights
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.build import build_student
from piflow_cli.engine.distill.offload import activations_on_host
from piflow_cli.engine.sample import sample
from piflow_cli.engine.sample.open import open_student
from piflow_cli.errors import ModelError
from piflow_cli.preset import Preset, load_preset

TEACHERS = {"flux": tiny_flux, "qwen": tiny_qwen}
PROMPTS = ("a red cat", "blue dog on the house")


def tiny(family: str, folder: Path, *overrides: str) -> Preset:
    """The data-free recipe on a random pipeline, with all that a small card asks for."""
    folder.joinpath("prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    changes = {"source": TEACHERS[family]().source, "width": 48, "height": 64, "max_sequence_length": 12}
    table = [f"teacher.{key}={json.dumps(value)}" for key, value in changes.items()]
    small = {
        "adapter.rank": 4,
        "policy.num_components": 3,
        "policy.logstd_inner_dim": 16,
        "sampling.total_substeps": 16,
        "objective.window_substeps": 1,
        "objective.num_intermediates": 2,
        "optimizer.warmup_steps": 1,
        "optimizer.learning_rate": 1e-3,
        "training.batch_size": 4,
        "training.micro_batch_size": 2,
        "training.mixed_precision": "no",
        "training.teacher_dtype": "float32",
        "training.gradient_checkpointing": True,
        "training.preview_every": 0,
        "training.steps": 3,
        "data.path": str(folder / "prompts.txt"),
        "data.limit": 2,
        "data.cache": str(folder / "cache"),
    }
    table += [f"{key}={json.dumps(value)}" for key, value in small.items()]
    return load_preset(f"{family}-4nfe-datafree", [*table, *overrides])


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters as they lie in memory, with the scales of those that are quantised."""
    count = 0
    for parameter in module.parameters():
        values, scale = parameter, None
        if type(parameter).__name__ == "Params4bit":
            scale = parameter.quant_state.absmax
        elif type(parameter).__name__ == "Int8Params":
            scale = parameter.SCB
        elif hasattr(parameter, "qdata"):
            values, scale = parameter.qdata, parameter.scale
        count += values.nbytes + (scale.nbytes if scale is not None else 0)
    return count


@pytest.mark.usefixtures("bitsandbytes_on_cpu")
@pytest.mark.parametrize("family", TEACHERS)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_base_takes_the_bytes_that_are_planned_and_keeps_its_projection(family: str, quantization: str) -> None:
    settings = TEACHERS[family](quantization=quantization)
    whole, quantised = TEACHERS[family]().load().module, settings.load().module
    assert stored_bytes(quantised) == settings.frozen_bytes(settings.describe()[0], 4) < stored_bytes(whole)
    assert type(quantised.proj_out) is nn.Linear
    assert torch.equal(quantised.proj_out.weight, whole.proj_out.weight)
    assert torch.equal(quantised.norm_out.linear.weight, whole.norm_out.linear.weight)


@pytest.mark.slow
@pytest.mark.usefixtures("bitsandbytes_on_cpu")
@pytest.mark.parametrize("family", TEACHERS)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_an_adapter_trained_on_a_quantised_base_fits_both(tmp_path: Path, family: str, quantization: str) -> None:
    bits8 = "optimizer.name=paged-adamw8bit" if quantization.startswith("bnb") else "optimizer.name=adamw"
    changes = (f"teacher.quantization={quantization}", "training.offload_activations=true", bits8)
    result = distill(tiny(family, tmp_path, *changes), out=tmp_path / "run", device="cpu")
    assert (result.step, result.skipped) == (3, 0)
    weights = load_file(tmp_path / "run" / "student" / "student.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert any(bool(tensor.any()) for name, tensor in weights.items() if ".lora_B." in name)

    drawn = {}
    for base in (quantization, "none"):
        student = open_student(str(tmp_path / "run"), quantization=base, device="cpu", dtype="float32")
        own = student.network.own_parameters()
        assert all(torch.equal(own[name], tensor) for name, tensor in weights.items())
        drawn[base] = sample(PROMPTS, model=student).latents
        if base == "none":
            assert merged_weights(student.network.module)
        else:
            with pytest.raises(ModelError, match="quantised"):
                merged_weights(student.network.module)
    assert torch.isfinite(drawn[quantization]).all()
    error = (drawn[quantization] - drawn["none"]).norm() / drawn["none"].norm()
    assert 0 < error < (0.3 if "4bit" in quantization else 0.1)


@pytest.mark.usefixtures("bitsandbytes_on_cpu")
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_teacher_and_student_share_the_quantised_base(quantization: str) -> None:
    """Untrained LoRA does nothing: switched to the teacher and back, both are what they were."""
    teacher = tiny_flux(quantization=quantization).load()
    condition = teacher.space.encode_prompts(list(PROMPTS))
    x = torch.randn(2, *teacher.space.latent_shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.4, 0.8])
    before = teacher.velocity(x, sigma, condition)
    preset = load_preset("flux-4nfe", ["adapter.rank=4", "policy.num_components=3", "adapter.dropout=0"])
    student = build_student(preset, teacher, generator=torch.Generator().manual_seed(0))
    assert student.module is teacher.module
    output, extra = student(x, sigma, condition)
    (output.square().mean() + extra.square().mean()).backward()
    gradients = [p.grad for name, p in student.own_parameters().items() if ".lora_B." in name]
    assert all(bool(gradient.any()) for gradient in gradients)
    own = {id(parameter) for parameter in student.own_parameters().values()}
    assert all(parameter.grad is None for parameter in student.module.parameters() if id(parameter) not in own)
    with torch.no_grad(), student.as_teacher():
        assert torch.equal(student(x, sigma, condition)[0].float(), before)
    assert torch.equal(student(x, sigma, condition)[0], output)


def test_offloaded_activations_change_no_gradient_and_leave_weights_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 3))
    x = torch.randn(5, 6, generator=generator)
    network(x).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    with activations_on_host(network, wanted=True):
        output = network(x)
    assert output.grad_fn._saved_mat2.untyped_storage().data_ptr() == network[2].weight.untyped_storage().data_ptr()
    output.square().sum().backward()
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(network.parameters(), expected, strict=True))
