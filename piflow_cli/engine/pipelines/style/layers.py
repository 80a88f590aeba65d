"""Finding LoRA in the layers of a module, and switching it on, off and up without touching what is being trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from piflow_cli.core.adapter import ADAPTER

PROJECTIONS = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
"""What `fuse_qkv_projections` of diffusers replaces."""


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


@contextmanager
def gradients_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """After the context what was trainable is so still and nothing else is: peft changes that with what is active."""
    modules = list(modules)
    trainable = {id(p) for module in modules for p in module.parameters() if p.requires_grad}
    try:
        yield
    finally:
        for parameter in (p for module in modules for p in module.parameters()):
            if parameter.requires_grad != (id(parameter) in trainable):
                parameter.requires_grad_(id(parameter) in trainable)


def activate(layer: Any, names: Sequence[str]) -> None:
    """Make these LoRA of a layer, and no others, act."""
    if layer.disable_adapters or layer.active_adapters != list(names):
        layer.enable_adapters(True)
        layer.set_adapter(list(names))


@contextmanager
def own_acting(module: nn.Module) -> Iterator[None]:
    """Within the context the student's own LoRA acts at 1 beside whatever is active; then all is as it was before.

    Where the module's own `disable_lora` is in force, the own LoRA acts alone.
    """
    changed = []
    with gradients_kept([module]):
        for layer in (found for found in lora_layers(module).values() if carries(found, ADAPTER)):
            others = [] if layer.disable_adapters else [name for name in layer.active_adapters if name != ADAPTER]
            before = (layer.disable_adapters, list(layer.active_adapters), layer.scaling[ADAPTER])
            if before != (False, [ADAPTER, *others], _full_scale(layer)):
                changed.append((layer, *before))
                activate(layer, [ADAPTER, *others])
                layer.set_scale(ADAPTER, 1.0)
    try:
        yield
    finally:
        with gradients_kept([module]):
            for layer, disabled, active, scale in changed:
                layer.set_adapter(active)
                layer.enable_adapters(not disabled)
                layer.scaling[ADAPTER] = scale


def _full_scale(layer: Any) -> float:
    return layer.lora_alpha[ADAPTER] / layer.r[ADAPTER]


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


def layer_weights(module: nn.Module, name: str, weights: Mapping[str, float]) -> dict[str, float]:
    """The weight of a LoRA in each of its layers, 1 where no key says one; a key is a part of layers' names.

    Raises:
        ValueError: a key that names no layer of this LoRA.
    """
    layers = [layer_name for layer_name, layer in lora_layers(module).items() if carries(layer, name)]
    if unused := [key for key in weights if not any(_names(key, layer) for layer in layers)]:
        shown = ", ".join(layers[:3]) or "none"
        raise ValueError(
            f"adapter_weights names {', '.join(unused)}, but {name!r} has no such layer; it has {shown} ..."
        )
    by_layer = {  # of every layer with any LoRA: diffusers looks all of them up
        layer: next((w for key, w in weights.items() if _names(key, layer)), 1.0) for layer in lora_layers(module)
    }
    return dict(sorted(by_layer.items(), key=lambda pair: -len(pair[0])))  # diffusers takes the first that is contained


def _names(key: str, layer: str) -> bool:
    return f".{key}." in f".{layer}."


def has_fused_projections(module: nn.Module) -> bool:
    """Whether `fuse_qkv_projections` of diffusers is in force."""
    return any(getattr(part, "fused_projections", False) for part in module.modules())


def hidden_by_fused_projections(module: nn.Module) -> list[str]:
    """Layers whose active LoRA is left out because `fuse_qkv_projections` put one projection in their place."""
    attentions = [name for name, part in module.named_modules() if getattr(part, "fused_projections", False)]
    layers = lora_layers(module)
    found = (f"{attention}.{projection}" for attention in attentions for projection in PROJECTIONS)
    hidden = {name: layers[name] for name in found if name in layers}
    return [name for name, layer in hidden.items() if any(carries(layer, lora) for lora in layer.active_adapters)]
