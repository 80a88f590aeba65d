"""Finding, renaming, fusing and scaling LoRA in the layers of a student's transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from piflow_cli.core.adapter import ADAPTER, STUDENT, TwoSided

TRANSFORMER = "transformer"
PREFIX = f"{TRANSFORMER}."
CONTROL_KEYS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
"""Norm weights that FLUX control LoRA bring along."""

Scales = dict[str, dict[str, float]]
"""The scale of each LoRA, by layer."""


def lora_layers(module: nn.Module) -> dict[str, Any]:
    """peft's layers of a module by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: part for name, part in module.named_modules() if isinstance(part, BaseTunerLayer)}


def carries(layer: Any, name: str) -> bool:
    """Whether a layer carries the LoRA of this name."""
    return name in getattr(layer, "lora_A", ())


def unwrap_empty(module: nn.Module) -> None:
    """Put the layers that carry no LoRA any more back in the place of their wrappers."""
    for name, layer in lora_layers(module).items():
        if not len(getattr(layer, "lora_A", ())) and hasattr(layer, "base_layer"):
            module.set_submodule(name, layer.get_base_layer())


def check_loadable(weights: Mapping[str, Any], projection_name: str) -> dict[str, Any]:
    """LoRA weights without those of the projection that a student's head replaces.

    Raises:
        ValueError: a control LoRA or a LoKr adapter, or nothing is left.
    """
    if any(".lokr_" in name for name in weights):
        raise ValueError("this is a LoKr adapter; on top of a student only LoRA can be loaded")
    if any(f".{key}." in name for name in weights for key in CONTROL_KEYS):
        raise ValueError("this is a control LoRA: it changes what the network takes in, which no student can follow")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(f"{PREFIX}{projection_name}.")}
    if weights and not kept:
        raise ValueError(f"this LoRA is for {projection_name} alone, which the student's head replaces")
    return kept


def check_widths(module: nn.Module, weights: Mapping[str, Any]) -> None:
    """Raise ValueError where LoRA takes more inputs than its layer has, as control LoRA do."""
    modules = dict(module.named_modules())
    for name, down in weights.items():
        layer = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        width = getattr(modules.get(layer), "in_features", None)
        if name.endswith(".lora_A.weight") and width is not None and down.shape[1] > width:
            raise ValueError(
                f"this LoRA takes {down.shape[1]} inputs at {layer}, which has {width}: is it for control?"
            )


def to_student_side(module: nn.Module, weights: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[dict, dict]:
    """LoRA weights, and the options of loading them, with names that point at the student's version of a module.

    Args:
        module: the transformer.
        weights: by names that start with `transformer.`.
        options: of diffusers' `load_lora_into_transformer`; `network_alphas` and `metadata` hold names too.
    """
    sides = [name for name, part in module.named_modules() if isinstance(part, TwoSided)]

    def rename(name: str) -> str:
        side = next((side for side in sides if name == side or name.startswith(f"{side}.")), None)
        if side is None or name.startswith(f"{side}.{STUDENT}."):
            return name
        return f"{side}.{STUDENT}{name.removeprefix(side)}"

    def rename_keys(values: Mapping[str, Any]) -> dict[str, Any]:
        return {PREFIX + rename(k.removeprefix(PREFIX)) if k.startswith(PREFIX) else k: v for k, v in values.items()}

    options = dict(options)
    if options.get("network_alphas"):
        options["network_alphas"] = rename_keys(options["network_alphas"])
    if options.get("metadata"):
        metadata = options["metadata"] = dict(options["metadata"])
        for key in (f"{PREFIX}rank_pattern", f"{PREFIX}alpha_pattern"):
            metadata |= {key: {rename(name): value for name, value in metadata[key].items()}} if key in metadata else {}
        if isinstance(targets := metadata.get(f"{PREFIX}target_modules"), list | set | tuple):
            metadata[f"{PREFIX}target_modules"] = [rename(name) for name in targets]
    return rename_keys(weights), options


def fuse(module: nn.Module, names: Sequence[str], *, scale: float, safe: bool) -> Scales:
    """Add LoRA to the weights below them, and return with which scales; other LoRA of the layers work on."""
    scales: Scales = {name: {} for name in names}
    for layer_name, layer in lora_layers(module).items():
        present = [name for name in names if carries(layer, name)]
        if not present:
            continue
        chosen = dict(layer.scaling)
        layer.scaling.update({name: chosen[name] * scale for name in present})
        layer.merge(safe_merge=safe, adapter_names=present)
        layer.merged_adapters.clear()  # a layer that knows of a merge leaves its other LoRA out
        for name in present:
            scales[name][layer_name] = layer.scaling[name]
        layer.scaling.update(chosen)
    return scales


def unfuse(module: nn.Module, scales: Scales) -> None:
    """Subtract what `fuse` added."""
    layers = lora_layers(module)
    for name, by_layer in scales.items():
        for layer_name, scale in by_layer.items():
            layer = layers[layer_name]
            chosen, layer.scaling[name] = layer.scaling[name], scale
            layer.merged_adapters.append(name)
            layer.unmerge()
            layer.scaling[name] = chosen


@contextmanager
def styles_scaled(module: nn.Module, scale: float) -> Iterator[None]:
    """Within the context all LoRA but the student's own is `scale` times as strong."""
    layers = lora_layers(module).values() if scale != 1 else ()
    kept = [(layer.scaling, dict(layer.scaling)) for layer in layers]
    for scaling, before in kept:
        scaling.update({name: value * scale for name, value in before.items() if name != ADAPTER})
    try:
        yield
    finally:
        for scaling, before in kept:
            scaling.update(before)
