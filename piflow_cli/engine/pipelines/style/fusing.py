"""Adding LoRA to the weights below them and taking it out again, while other LoRA of the same layers work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from piflow_cli.engine.pipelines.style.layers import carries, lora_layers

Scales = dict[str, dict[str, float]]
"""The scale of each LoRA, by layer."""


def fuse(module: nn.Module, names: Sequence[str], *, scale: float, safe: bool) -> Scales:
    """Add LoRA to the weights below them, and return with which scales; LoRA that the module has not is left out."""
    scales: Scales = {}
    for layer_name, layer in lora_layers(module).items():
        present = [name for name in names if carries(layer, name)]
        if not present:
            continue
        chosen = dict(layer.scaling)
        layer.scaling.update({name: chosen[name] * scale for name in present})
        layer.merge(safe_merge=safe, adapter_names=present)
        layer.merged_adapters.clear()  # a layer that knows of a merge leaves its other LoRA out
        for name in present:
            scales.setdefault(name, {})[layer_name] = layer.scaling[name]
        layer.scaling.update(chosen)
    return scales


def unfuse(module: nn.Module, scales: Mapping[str, Mapping[str, float]]) -> None:
    """Subtract what `fuse` added."""
    layers = lora_layers(module)
    for name, by_layer in scales.items():
        for layer_name, scale in by_layer.items():
            layer = layers[layer_name]
            chosen, layer.scaling[name] = layer.scaling[name], scale
            layer.merged_adapters.append(name)
            layer.unmerge()
            layer.scaling[name] = chosen
