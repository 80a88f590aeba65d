"""Which files hold weights, and which weights are refused: by names, kinds and values."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from piflow_cli.errors import ModelError
from piflow_cli.io.weights import check_layers, check_values, find_weights, read_header, read_weights

PLAIN, FP16 = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"
SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("names", "variant", "expected"),
    [
        ([PLAIN, "config.json"], None, (None, [PLAIN], [])),
        ([PLAIN, FP16], None, (None, [PLAIN], [])),
        ([PLAIN, FP16], "fp16", ("fp16", [FP16], [])),
        ([FP16], None, ("fp16", [FP16], [])),
        ([PLAIN], "fp16", (None, [PLAIN], [])),
        (["pytorch_model.bin", "model.safetensors"], None, (None, ["model.safetensors"], [])),
        (["pytorch_model.bin"], None, (None, ["pytorch_model.bin"], [])),
        (["pytorch_model.bin", "model.fp16.safetensors"], None, ("fp16", ["model.fp16.safetensors"], [])),
        (SHARDS, None, (None, SHARDS, [])),
        (SHARDS[:1] + SHARDS[2:], None, (None, [SHARDS[0], SHARDS[2]], [SHARDS[1]])),
        (["model.safetensors", *SHARDS[:2]], None, (None, ["model.safetensors"], [])),
        (["model.bf16-00001-of-00002.safetensors"], None, ("bf16", None, ["model.bf16-00002-of-00002.safetensors"])),
        (["model-00002-of-00002.bf16.safetensors"], None, ("bf16", None, ["model-00001-of-00002.bf16.safetensors"])),
    ],
)
def test_weight_files_by_name(names, variant, expected) -> None:
    found = find_weights(names, variant=variant)
    assert (found.variant, list(found.missing)) == (expected[0], expected[2])
    assert list(found.names) == (names if expected[1] is None else expected[1])


def test_folders_without_weights_have_none() -> None:
    assert find_weights(["config.json", "flux1-dev.safetensors", "model.safetensors.index.json"]) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_one_value_that_is_not_finite_is_found(value: float, dtype: torch.dtype) -> None:
    weights = {"a": torch.ones(3, 5).to(dtype), "b": torch.ones(7).to(dtype), "empty": torch.ones(0).to(dtype)}
    check_values(weights, source="f.safetensors")
    broken = torch.ones(7)
    broken[3] = value
    with pytest.raises(ModelError, match=r"weights of f\.safetensors are not finite \(NaN or infinite\) in b\."):
        check_values(weights | {"b": broken.to(dtype)}, source="f.safetensors")


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_named(dtype: torch.dtype) -> None:
    with pytest.raises(ModelError, match=f"f are no floating-point numbers: b is {str(dtype)[6:]}"):
        check_values({"a": torch.ones(2), "b": torch.ones(2).to(dtype)}, source="f")


def test_more_layers_than_tensors_are_refused() -> None:
    check_layers({"num_layers": 2, "num_single_layers": 2, "norm_num_groups": 32}, ["a", "b"], source="f")
    with pytest.raises(ModelError, match="num_single_layers = 1000000, but its weights are 2 tensors"):
        check_layers({"num_layers": 2, "num_single_layers": 10**6}, ["a", "b"], source="f")


def test_damaged_files_are_called_so(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(100)}, path)
    assert read_header(path) == (["a"], {})
    path.write_bytes(path.read_bytes()[:-1])
    for read in (read_weights, read_header):
        with pytest.raises(ModelError, match=r"truncated.* damaged"):
            read(path)
        with pytest.raises(ModelError, match=r"there is no file .* of weights"):
            read(tmp_path / "none.safetensors")
