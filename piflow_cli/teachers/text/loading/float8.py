"""Weights stored in 8-bit floats: their scales multiplied in, under the names that people publish them with.

Source: ComfyUI's scaled fp8 (LAYER.scale_weight, later LAYER.weight_scale with LAYER.comfy_quant), and the form that
compressed-tensors and ModelOpt write (LAYER.weight_scale). A weight is what is stored times its scale.
"""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from piflow_cli.errors import ModelError
from piflow_cli.io.bounds import bounded_json

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALES = (".scale_weight", ".weight_scale")
"""Ends of the names of scales, in place of ".weight"."""
INPUT_SCALES = (".scale_input", ".input_scale")
"""Scales of activations, for computing in 8 bits: nothing that belongs to the weights."""
MARKER, RECIPE = "scaled_fp8", ".comfy_quant"
"""A tensor that marks a scaled file, and the end of the names of a layer's recipe: JSON in bytes."""
UNSCALED = (
    "holds {count} weights in float8 without scales, such as {first}: what the cast has rounded away shows as a grid "
    "in the pictures. A scaled fp8 or a 16-bit file of the model has not lost it."
)
"""The warning of a plain cast."""
RECIPE_FORMATS = ("float8_e4m3fn", "float8_e5m2")
RECIPE_KEYS = ("format", "full_precision_matrix_mult")


def weight_names(names: Iterable[str]) -> list[str]:
    """Those of a file's names that are of weights, not of their scales, recipes and markers."""
    beside = (*SCALES, *INPUT_SCALES, RECIPE)
    return [name for name in names if name != MARKER and not name.endswith(beside)]


def unscale(
    weights: dict[str, Tensor], *, dtype: torch.dtype, source: object, exact: Collection[str] = ()
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights as they are meant, without scales and markers, and what a user should know of them.

    Args:
        weights: as in the file; those that are no scales must be floating-point numbers.
        dtype: of the result; the product with a scale is taken in float32.
        source: the file, for messages.
        exact: names of those that are float32 in the result.

    Raises:
        ModelError: a scale without a weight or of a shape that fits none, or weights in a form that is not known.
    """
    plain, scales = _sorted_out(weights, source)
    unscaled = [name for name, tensor in plain.items() if tensor.dtype in FLOAT8 and name not in scales]
    result = {}
    for name, tensor in plain.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(f"{name} of {source} is {kind}; of quantised files those in float8 are read, and .gguf")
        scale, held = scales.get(name), torch.float32 if name in exact else dtype
        if scale is None:
            result[name] = tensor.to(held)
        else:
            result[name] = (tensor.float() * _spread(scale, tensor, f"the scale of {name} in {source}")).to(held)
    if not unscaled:
        return result, ()
    return result, (f"{source} {UNSCALED.format(count=len(unscaled), first=unscaled[0])}",)


def _sorted_out(weights: dict[str, Tensor], source: object) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights, and the scales by the names of the weights they belong to."""
    plain = {name: weights[name] for name in weight_names(weights)}
    scales: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        ending = next((end for end in SCALES if name.endswith(end)), None)
        if ending is not None:
            weight = name.removesuffix(ending) + ".weight"
            if weight not in weights or weight in scales:
                raise ModelError(f"{name} of {source} scales no weight: {weight} is not there, or has another scale")
            scales[weight] = tensor
        elif name.endswith(RECIPE):
            _check_recipe(tensor, name, source)
    return plain, scales


def _check_recipe(tensor: Tensor, name: str, source: object) -> None:
    """Raise ModelError for a layer's recipe that asks for more than a scale."""
    try:
        recipe = bounded_json(bytes(tensor.flatten().tolist()))
    except (ValueError, TypeError):
        recipe = None
    if not isinstance(recipe, dict) or recipe.get("format") not in RECIPE_FORMATS or recipe.keys() - set(RECIPE_KEYS):
        raise ModelError(f"{name} of {source} says {recipe}; layers of format {' or '.join(RECIPE_FORMATS)} are read")


def _spread(scale: Tensor, weight: Tensor, what: str) -> Tensor:
    """A scale in float32 that broadcasts over a weight (out, in): one number, one a row, or one a block."""
    scale = scale.float()
    if not bool(torch.isfinite(scale).all()):
        raise ModelError(f"{what} is not finite")
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.shape[0] == weight.shape[0] and scale.numel() == weight.shape[0]:
        return scale.reshape(-1, *[1] * (weight.ndim - 1))  # (out, 1)
    blocks = scale.ndim == weight.ndim == 2 and not any(w % s for w, s in zip(weight.shape, scale.shape, strict=True))
    if not blocks:
        raise ModelError(f"{what} has the shape {list(scale.shape)}, which no weight {list(weight.shape)} is scaled by")
    for axis in (0, 1):
        scale = scale.repeat_interleave(weight.shape[axis] // scale.shape[axis], dim=axis)
    return scale  # (out, in)
