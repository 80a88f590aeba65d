"""A transformer from one file: every tensor of it is used, known to be of no use, or refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from piflow_cli.errors import ModelError
from piflow_cli.io.tensors.exact import held_dtype, stays_float32
from piflow_cli.io.weights import check_layers, check_shapes, check_values, read_weights
from piflow_cli.teachers.text.loading.float8 import unscale, weight_names

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.")
"""What names may begin with where a file was saved with more around its transformer."""
OTHER_PARTS = ("text_encoders.", "vae.", "first_stage_model.", "cond_stage_model.", "conditioner.")
"""Begins of the names of parts that all-in-one checkpoints hold beside the transformer."""


def load_single_file(
    module: nn.Module, path: Path, *, config: dict[str, Any], dtype: torch.dtype
) -> tuple[nn.Module, tuple[str, ...]]:
    """Put the weights of a file into a module, and say what a user should know of them.

    Args:
        module: on the meta device, of a diffusers class.
        path: .safetensors, or .ckpt or .pt, in diffusers' names or the original ones, plain or in scaled float8.
        config: the module was built of.
        dtype: of the weights, except those that the class keeps in float32 (`stays_float32`), from float8 too.

    Raises:
        ModelError: the file is damaged, of another model, or holds what nobody would use.
    """
    weights, others = _transformer_of(read_weights(path))
    check_layers(config, list(weights), source=path)
    expected, kind = module.state_dict(), type(module).__name__
    origins = _origins(weights, expected, kind)
    exact = _exact(module, weights, origins)
    weights, warnings = unscale(weights, dtype=dtype, source=path, exact=exact)
    if origins is not None:
        weights = _to_diffusers(weights, kind, source=path)
    check_shapes(weights, expected, source=path)
    check_values(weights, source=path)
    rounded = {name: tensor.to(held_dtype(module, name, dtype)) for name, tensor in weights.items()}
    module.load_state_dict(rounded, assign=True)
    if others:
        found = " and ".join(sorted({name.split(".")[0] for name in others}))
        warnings += (f"{path} holds {found} too, which are not used: those of the base are",)
    return module, warnings


def _transformer_of(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The transformer's tensors without their prefix, and the names of those of other parts."""
    others = [name for name in weights if name.startswith(OTHER_PARTS)]
    own = {name: tensor for name, tensor in weights.items() if not name.startswith(OTHER_PARTS)}
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in own)), "")
    return {name.removeprefix(prefix): tensor for name, tensor in own.items()}, others


def _origins(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], class_name: str
) -> dict[str, str | None] | None:
    """Where weights come from in a file of original names, by diffusers' names; None for a file that has these.

    The two ways to name have some in common, such as Wan's patch embedding: original are names of which more are the
    module's once they are renamed, and where they cannot be, of which fewer than half are.

    Returns: the name of what a weight is, or is cut from; None for what is made of several.
    """
    names = weight_names(weights)
    known = len(expected.keys() & set(names))
    if known == len(expected):
        return None
    shadows = {name: torch.empty(weights[name].shape, device="meta") for name in names}
    try:
        renamed = _to_diffusers(shadows, class_name, source="the file")
    except ModelError:
        return {} if 2 * known < len(expected) else None  # which says what is wrong with them when they are read
    if len(expected.keys() & renamed.keys()) <= known:
        return None
    sources = {id(shadow): name for name, shadow in shadows.items()}
    return {name: sources.get(id(made if made._base is None else made._base)) for name, made in renamed.items()}


def _exact(module: nn.Module, weights: Mapping[str, Tensor], origins: dict[str, str | None] | None) -> set[str]:
    """The file's names of weights that stay float32; of all where one that does is made of several."""
    if origins is None:
        return {name for name in weights if stays_float32(module, name)}
    kept = {origin for name, origin in origins.items() if stays_float32(module, name)}
    found = {origin for origin in kept if origin is not None}
    return found if found == kept else set(weights)


def _to_diffusers(weights: dict[str, Tensor], class_name: str, *, source: object) -> dict[str, Tensor]:
    """Weights by original names renamed and cut as diffusers does it.

    Raises:
        ModelError: a weight is missing, or is none that diffusers knows.
    """
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    left = dict(weights)
    try:
        converted = SINGLE_FILE_LOADABLE_CLASSES[class_name]["checkpoint_mapping_fn"](checkpoint=left)
    except KeyError as error:
        raise ModelError(f"the weights of {source} are no {class_name}: {error.args[0]} is not there") from None
    except (IndexError, RuntimeError, ValueError) as error:  # no block at all, or shapes of another width
        first = next(iter(weights), "nothing")
        raise ModelError(f"the weights of {source} are no {class_name} ({first}, ...): {error}") from None
    if left and converted is not left:
        check_shapes(left, {}, source=source)  # names what was left over
    return converted
