"""FLUX.1 and Qwen-Image at their real size, without weights: what trains is what the authors' adapters hold.

Shapes: D network width, K components, N grid points.
"""

import pytest
from torch import nn

from piflow_cli.core.student import Student
from piflow_cli.engine.plan.plan import plan
from piflow_cli.formats.released.layouts import to_released
from piflow_cli.formats.student import StoredStudent, StudentCard
from piflow_cli.preset import Preset, load_preset
from piflow_cli.teachers.text.loading.configs import config_hash, plain_config

D, HIDDEN, RANK, EMBEDDING = 3072, 12288, 256, 256
IN_OUT = {"in": (D, HIDDEN), "out": (HIDDEN, D), "single_out": (D + HIDDEN, D)}


def lora(layer: str, features: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    return {f"{layer}.lora_A.weight": (RANK, features[0]), f"{layer}.lora_B.weight": (features[1], RANK)}


def flux_targets() -> dict[str, tuple[int, int]]:
    double = {"ff.net.0.proj": "in", "ff.net.2": "out", "ff_context.net.0.proj": "in", "ff_context.net.2": "out"}
    single = {"proj_mlp": "in", "proj_out": "single_out"}
    return {
        **{f"transformer_blocks.{i}.{name}": IN_OUT[kind] for i in range(19) for name, kind in double.items()},
        **{f"single_transformer_blocks.{i}.{name}": IN_OUT[kind] for i in range(38) for name, kind in single.items()},
    }


def qwen_targets() -> dict[str, tuple[int, int]]:
    both = {"net.0.proj": "in", "net.2": "out"}
    return {
        f"transformer_blocks.{i}.{mlp}.{name}": IN_OUT[kind]
        for i in range(60)
        for mlp in ("img_mlp", "txt_mlp")
        for name, kind in both.items()
        if (i, mlp) != (59, "txt_mlp")  # nothing reads what it gives
    }


MIXTURE = {
    "proj_out_means.weight": (8 * 64, D),
    "proj_out_means.bias": (8 * 64,),
    "proj_out_logweights.weight": (8 * 4, D),
    "proj_out_logweights.bias": (8 * 4,),
    "proj_out_logstds.1.weight": (1024, D),
    "proj_out_logstds.1.bias": (1024,),
    "proj_out_logstds.3.weight": (1, 1024),
    "proj_out_logstds.3.bias": (1,),
}
GRID = {"proj_out.weight": (10 * 64, D), "proj_out.bias": (10 * 64,)}
CASES = {
    "flux-4nfe": (flux_targets(), MIXTURE, "GMFluxTransformer2DModel"),
    "qwen-4nfe": (qwen_targets(), MIXTURE, "GMQwenImageTransformer2DModel"),
    "flux-4nfe-dx": (flux_targets(), GRID, "FluxTransformer2DModel"),
}


def expected_adapter(targets: dict[str, tuple[int, int]], head: dict[str, tuple[int, ...]]) -> dict[str, tuple]:
    """Every key of a released adapter with its shape (METHOD.md, sections 4 and 7)."""
    time = "time_text_embed.timestep_embedder"
    targets = targets | {f"{time}.linear_1": (EMBEDDING, D), f"{time}.linear_2": (D, D)}
    adapter = {key: shape for layer, features in targets.items() for key, shape in lora(layer, features).items()}
    return adapter | head | {"norm_out.linear.weight": (2 * D, D), "norm_out.linear.bias": (2 * D,)}


def build(preset: Preset) -> tuple[nn.Module, Student]:
    module, backbone = preset.teacher.describe()
    return module, Student(module, backbone=backbone, family=preset.policy, adapter=preset.adapter)


@pytest.mark.parametrize("name", list(CASES))
def test_what_trains_is_what_the_released_adapters_hold(name: str) -> None:
    targets, head, class_name = CASES[name]
    preset = load_preset(name)
    module, student = build(preset)
    assert all(parameter.is_meta for parameter in module.parameters())
    config = plain_config(dict(module.config))
    network = {"config": config, "config_hash": config_hash(config)}
    card = StudentCard.of(preset, network, steps=0)
    weights, released_config, _ = to_released(StoredStudent(card=card, weights=student.own_parameters()))
    found = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    assert found == expected_adapter(targets, head)
    assert released_config["_class_name"].endswith(class_name)
    student.make_trainable()
    trainable = {id(p) for p in student.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in student.own_parameters().values()}
    assert sum(p.numel() for p in student.own_parameters().values()) == plan(preset).facts.trainable
