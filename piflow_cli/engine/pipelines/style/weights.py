"""What a LoRA file holds, what of it fits a student, and what is to be said of the rest.

Keys are diffusers': PART.LAYER.lora_A.weight, where PART is a component of the pipeline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from piflow_cli.core.adapter import STUDENT, TwoSided
from piflow_cli.errors import ModelError
from piflow_cli.io.hub import HUB_ID, WEIGHT_SUFFIXES
from piflow_cli.io.texts.names import user_path

TRANSFORMER, TEXT_ENCODER = "transformer", "text_encoder"
PREFIX = f"{TRANSFORMER}."
CONTROL_KEYS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
"""Norm weights that FLUX control LoRA bring along."""
DOWN = re.compile(r"\.(?:lora_A|lora_down|lora\.down|lora_linear_layer\.down)\.weight$")
UP = re.compile(r"\.(?:lora_B|lora_up|lora\.up|lora_linear_layer\.up)\.weight$")
BESIDE = re.compile(r"\.(?:lora_[AB]\.bias|lora_magnitude_vector(?:\.weight)?)$")
EXAMPLES = 3


@dataclass(frozen=True)
class Fitting:
    """LoRA weights, sorted by whether a module has their layers.

    Args:
        kept: those that it has, by whole names.
        left: layers, or keys of no layer, that it has not.
        count: layers in all.
    """

    kept: dict[str, Tensor]
    left: tuple[str, ...]
    count: int


def read_lora(source: str | Path | Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """The weights of a LoRA by the names of its file, and its metadata.

    Args:
        source: a file, a folder, a hub id, or the weights themselves.
        options: diffusers' of reading: weight_name, subfolder, revision, token, cache_dir, ...

    Raises:
        ModelError: a file that does not exist.
    """
    from diffusers.loaders.lora_base import _fetch_state_dict

    if isinstance(source, Mapping):
        return dict(source), None
    path, name = user_path(source), str(source)
    if not path.exists() and (not HUB_ID.fullmatch(name) or name.endswith(WEIGHT_SUFFIXES)):
        raise ModelError(f"{name!r} does not exist here and is no hub id (owner/name); pass a LoRA's file or folder")
    strict = options.get("use_safetensors") or path.suffix == ".safetensors"  # else a damaged one is called missing
    plain = ("local_files_only", "cache_dir", "force_download", "proxies", "token", "revision", "subfolder")
    return _fetch_state_dict(
        str(path) if path.exists() else name,
        weight_name=options.get("weight_name"),
        use_safetensors=options.get("use_safetensors") is not False,
        allow_pickle=not strict and options.get("use_safetensors") is None,
        user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
        **{key: options.get(key) for key in plain},
    )


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
    """Raise ValueError where LoRA has other widths than its layer, as control LoRA and those of other models do."""
    modules = dict(module.named_modules())
    for key, tensor in weights.items():
        for pattern, axis, verb, attribute in ((DOWN, 1, "takes", "in_features"), (UP, 0, "gives", "out_features")):
            if not pattern.search(key):
                continue
            layer = pattern.sub("", key.removeprefix(PREFIX))
            width = getattr(modules.get(layer), attribute, None)
            if width is not None and tensor.shape[axis] != width:
                what = "inputs" if axis else "outputs"
                raise ValueError(
                    f"this LoRA {verb} {tensor.shape[axis]} {what} at {layer}, which has {width}: is it for control, "
                    "or for another model?"
                )


def fitting(part: str, module: nn.Module | None, weights: Mapping[str, Any]) -> Fitting:
    """The weights of a part of the pipeline, sorted by whether its module has their layers, whole.

    Args:
        part: the first part of the weights' names.
        module: of that name; None where the pipeline has none.
        weights: of the whole LoRA.
    """
    prefix = f"{part}."
    own = {key: tensor for key, tensor in weights.items() if key.startswith(prefix)}
    down, up = ({p.sub("", key.removeprefix(prefix)) for key in own if p.search(key)} for p in (DOWN, UP))
    known = _adaptable(module) if module is not None else set()
    whole = {layer for layer in down & up if _aliases(layer) & known}
    layers = down | up
    kept, left = {}, [layer for layer in sorted(layers) if layer not in whole]
    for key, tensor in own.items():
        layer = next((p.sub("", key.removeprefix(prefix)) for p in (DOWN, UP, BESIDE) if p.search(key)), None)
        if layer in whole:
            kept[key] = tensor
        elif layer not in layers:
            left.append(key)
    return Fitting(kept=kept, left=tuple(left), count=len(layers))


def _aliases(layer: str) -> set[str]:
    """Names that a layer goes by: transformers has had CLIP's text encoder under `text_model`, and has it no longer."""
    plain = layer.removeprefix("text_model.")
    return {plain, f"text_model.{plain}"}


def _adaptable(module: nn.Module) -> set[str]:
    """Names of the layers that can carry LoRA."""
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
    return {
        name
        for name, part in module.named_modules()
        if isinstance(part, kinds) or getattr(part, "in_features", None) is not None  # quantised, or wrapped by peft
    }


def said_of(found: Sequence[str], what: str, *, of: int | None = None) -> str:
    """A count with examples: '2 of 5 layers are left out, such as a, b'."""
    counted = f"{len(found)}" if of is None else f"{len(found)} of {of}"
    return f"{counted} {what}, such as {', '.join(found[:EXAMPLES])}"


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
