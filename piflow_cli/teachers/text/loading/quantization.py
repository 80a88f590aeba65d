"""Quantising a transformer while it loads; what students replace, its last norms and its projection, stays whole."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from piflow_cli.errors import DeviceError, MissingExtraError, ModelError
from piflow_cli.io.tensors.exact import held_bytes, stays_float32
from piflow_cli.io.tensors.files import open_tensors
from piflow_cli.teachers.text.settings import Quantization, TextSettings

BITS = {"bnb-4bit": 4, "bnb-8bit": 8, "torchao-int8": 8, "torchao-fp8": 8}
NF4_BLOCK = 64
"""Weights that share a scale in float32."""


def library_of(name: str) -> str:
    """The library, and package, that does a quantisation."""
    return "bitsandbytes" if name.startswith("bnb") else "torchao"


def check_quantization(name: str, *, device: torch.device) -> None:
    """Raise where bases cannot be held so, before anything is loaded.

    Raises:
        ModelError: there is no such way.
        MissingExtraError: its library is not installed.
        DeviceError: it needs a GPU.
    """
    if name not in get_args(Quantization):
        raise ModelError(f"no base is held as {name[:60]!r}; known are {', '.join(get_args(Quantization))}")
    if name == "none":
        return
    require(library_of(name), library_of(name))
    if name.startswith("bnb") and device.type == "cpu":
        raise needs_gpu(name)


def needs_gpu(name: str) -> DeviceError:
    """The error for a quantisation that diffusers does on GPUs alone."""
    return DeviceError(
        f"quantization {name} needs a GPU, and there is none; torchao-int8 and torchao-fp8 run on a CPU, and a student "
        "takes its base whole too (none)"
    )


def require(module: str, extra: str) -> None:
    """Raise MissingExtraError where a quantisation's library is not installed."""
    if find_spec(module) is None:
        raise MissingExtraError(
            f"this quantisation needs {module}: pip install 'piflow[{extra}]'; a student takes its base whole too "
            "(--quantize none)"
        )


def quantization_config(settings: TextSettings, dtype: torch.dtype) -> Any:
    """diffusers' configuration of the settings' quantisation.

    bitsandbytes tells layers by the last part of their name, by which FLUX also calls layers inside its blocks: the
    projection is quantised with them, and put back whole by `restore_projection`.

    Args:
        dtype: that matrix products are done in.

    Raises:
        MissingExtraError: its library is not installed.
    """
    import diffusers

    name, backbone = settings.quantization, settings.backbone_class
    norms = list(backbone.trained_modules)
    require(library_of(name), library_of(name))
    if name.startswith("bnb"):
        four = name == "bnb-4bit"
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype} if four else {}
        return diffusers.BitsAndBytesConfig(load_in_8bit=not four, llm_int8_skip_modules=norms, **options)
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    kind = Int8WeightOnlyConfig() if name == "torchao-int8" else Float8WeightOnlyConfig()
    return diffusers.TorchAoConfig(kind, modules_to_not_convert=[*norms, f"{backbone.projection_name}.weight"])


def restore_projection(module: nn.Module, projection: str, folder: Path, *, dtype: torch.dtype) -> None:
    """Put the final projection back as the files of a folder hold it, where it was quantised.

    Raises:
        ModelError: no .safetensors there holds it, as where the files themselves are quantised.
    """
    quantised, weight = module.get_submodule(projection), f"{projection}.weight"
    if quantised.weight.is_floating_point():
        return
    biased = quantised.bias is not None
    for path in sorted(folder.glob("*.safetensors")):
        with open_tensors(path) as file:
            if weight in file.keys() and f"{weight}.absmax" not in file.keys():  # noqa: SIM118
                sides = (quantised.in_features, quantised.out_features)
                whole = nn.Linear(*sides, bias=biased, dtype=dtype, device="meta")
                names = {name: file.get_tensor(f"{projection}.{name}") for name in ["weight"] + ["bias"] * biased}
                if names["weight"].shape != whole.weight.shape or not names["weight"].is_floating_point():
                    continue
                place = {"device": quantised.weight.device, "dtype": dtype}
                whole.load_state_dict({name: tensor.to(**place) for name, tensor in names.items()}, assign=True)
                module.set_submodule(projection, whole.requires_grad_(False).eval())
                return
    raise ModelError(f"{folder} has no .safetensors with an unquantised {weight}, which students are initialised from")


def frozen_bytes(module: nn.Module, settings: TextSettings, item_bytes: int) -> int:
    """Bytes of a transformer's frozen weights as they are loaded.

    Args:
        module: unquantised, on any device.
        item_bytes: of a weight that is not quantised and does not stay float32.
    """
    whole, quantization = held_bytes(module, item_bytes), settings.quantization
    if quantization == "none":
        return whole
    kept = (settings.backbone_class.projection_name, *settings.backbone_class.trained_modules)
    layers = [
        layer
        for name, layer in module.named_modules()
        if _is_quantised(name, layer, kept) and not stays_float32(module, name)
    ]
    weights, rows = sum(layer.weight.numel() for layer in layers), sum(layer.out_features for layer in layers)
    scales = weights // NF4_BLOCK * 4 if quantization == "bnb-4bit" else rows * 4
    return whole - weights * item_bytes + weights * BITS[quantization] // 8 + scales


def _is_quantised(name: str, layer: nn.Module, kept: Sequence[str]) -> bool:
    return isinstance(layer, nn.Linear) and not any(name == part or name.startswith(f"{part}.") for part in kept)
