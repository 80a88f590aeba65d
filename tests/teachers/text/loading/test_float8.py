"""Scaled float8 gives back what was scaled, in every published form; other forms are refused by name."""

import json

import pytest
import torch
from torch import Tensor

from piflow_cli.errors import ModelError
from piflow_cli.teachers.text.loading.float8 import FLOAT8, unscale

OUT, IN = 6, 8


def weight() -> Tensor:
    """Rows of very different sizes, which one scale cannot serve well."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(OUT, IN, generator=generator) * torch.logspace(-3, 1, OUT)[:, None]


def bytes_of(value: object) -> Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


SCALES = {
    "number": lambda w: (w.abs().max() / 448).reshape(()),
    "one": lambda w: (w.abs().max() / 448).reshape(1),
    "rows": lambda w: w.abs().amax(1) / 448,
    "column": lambda w: w.abs().amax(1, keepdim=True) / 448,
    "bfloat16 rows": lambda w: (w.abs().amax(1, keepdim=True) / 448).bfloat16(),
}


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("float8", FLOAT8)
def test_a_weight_is_what_is_stored_times_its_scale(kind: str, ending: str, float8: torch.dtype) -> None:
    w = weight()
    scale = SCALES[kind](w)
    stored = (w / (scale.float().reshape(-1, 1) if scale.numel() > 1 else scale.float())).to(float8)
    file = {"a.weight": stored, f"a.{ending}": scale, "a.bias": w[:, 0]}
    found, warnings = unscale(file, dtype=torch.float32, source="f")
    assert found.keys() == {"a.weight", "a.bias"}
    by_hand = torch.stack([stored[i].float() * float(scale.float().reshape(-1)[i % scale.numel()]) for i in range(OUT)])
    assert torch.equal(found["a.weight"], by_hand)
    assert torch.equal(found["a.bias"], w[:, 0])
    assert warnings == ()
    if kind == "rows":  # 3 bits of mantissa, 2 bits: half a step of the largest binade
        assert (found["a.weight"] - w).abs().max() <= w.abs().amax(1).max() * (2**-4 if float8 == FLOAT8[0] else 2**-3)


def test_blocks_are_scaled_each_by_its_own() -> None:
    stored = torch.ones(4, 6).to(torch.float8_e4m3fn)
    scale = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    found, _ = unscale({"a.weight": stored, "a.weight_scale": scale}, dtype=torch.bfloat16, source="f")
    assert found["a.weight"].dtype == torch.bfloat16
    assert found["a.weight"].tolist() == [[1, 1, 2, 2, 3, 3]] * 2 + [[4, 4, 5, 5, 6, 6]] * 2


def test_markers_recipes_and_scales_of_activations_leave_nothing() -> None:
    file = {
        "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn),
        "a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn),
        "a.weight_scale": torch.tensor(3.0),
        "a.comfy_quant": bytes_of({"format": "float8_e4m3fn", "full_precision_matrix_mult": True}),
        "a.input_scale": torch.tensor(0.5),
        "b.weight": torch.full((2, 2), 2.0),
        "b.scale_input": torch.tensor(0.5),
        "b.scale_weight": torch.tensor(1.0),
    }
    found, warnings = unscale(file, dtype=torch.float32, source="f")
    assert {name: tensor.unique().tolist() for name, tensor in found.items()} == {"a.weight": [3.0], "b.weight": [2.0]}
    assert warnings == ()


def test_float8_without_scales_is_cast_and_warned_of() -> None:
    w = weight()
    found, warnings = unscale({"a.weight": w.to(torch.float8_e4m3fn)}, dtype=torch.float32, source="x.safetensors")
    assert torch.equal(found["a.weight"], w.to(torch.float8_e4m3fn).float())
    assert len(warnings) == 1
    assert "x.safetensors holds 1 weights in float8 without scales, such as a.weight" in warnings[0]
    assert "grid" in warnings[0]


REFUSED = {
    "a.scale_weight of f scales no weight": {"a.scale_weight": torch.tensor(1.0)},
    "weight_scale of f scales no weight": {
        "a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn),
        "a.scale_weight": torch.tensor(1.0),
        "a.weight_scale": torch.tensor(1.0),
    },
    "a.weight of f is uint8": {"a.weight": torch.zeros(2, 2, dtype=torch.uint8), "a.weight_scale": torch.ones(2, 1)},
    "a.weight of f is int8": {"a.weight": torch.zeros(2, 2, dtype=torch.int8), "a.weight_scale": torch.tensor(1.0)},
    r"the shape \[5\], which no weight \[4, 6\] is scaled by": {
        "a.weight": torch.ones(4, 6).to(torch.float8_e4m3fn),
        "a.weight_scale": torch.ones(5),
    },
    "the scale of a.weight in f is not finite": {
        "a.weight": torch.ones(4, 6).to(torch.float8_e4m3fn),
        "a.weight_scale": torch.tensor(float("nan")),
    },
    "a.comfy_quant of f says .*mxfp8": {
        "a.weight": torch.ones(4, 32).to(torch.float8_e4m3fn),
        "a.weight_scale": torch.ones(4, 1),
        "a.comfy_quant": bytes_of({"format": "mxfp8"}),
    },
    "a.comfy_quant of f says .*hadamard": {
        "a.weight": torch.ones(4, 32).to(torch.float8_e4m3fn),
        "a.weight_scale": torch.ones(4, 1),
        "a.comfy_quant": bytes_of({"format": "float8_e4m3fn", "hadamard": 64}),
    },
    "a.comfy_quant of f says None": {"a.comfy_quant": torch.tensor([1, 2, 3], dtype=torch.uint8)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_known_is_refused_by_name(message: str) -> None:
    with pytest.raises(ModelError, match=message):
        unscale(REFUSED[message], dtype=torch.float32, source="f")
