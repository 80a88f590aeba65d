"""Reading model files safely: JSON objects, state dicts without executing a pickle, and whether they fit a module."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from piflow_cli.errors import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file is missing, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}; is it a model folder?") from None
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value


def read_header(path: Path) -> tuple[list[str], dict[str, str]]:
    """The tensor names and the metadata of a .safetensors file, without reading its tensors.

    Raises:
        ModelError: the file is missing or damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys()), file.metadata() or {}
    except FileNotFoundError:
        raise ModelError(f"there is no weight file {path}") from None
    except Exception as error:  # safetensors raises errors of several classes
        raise _unreadable(path, error) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from a pickled .pth without executing anything in it.

    Raises:
        ModelError: the file is truncated, is no state dict, or is a pickle that needs more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"there is no weight file {path}") from None
    except Exception as error:  # safetensors, zip and unpickling errors share no ground class
        raise _unreadable(path, error) from None
    for wrapper in ("state_dict", "model", "ema"):
        if isinstance(weights, dict) and isinstance(weights.get(wrapper), dict):
            weights = weights[wrapper]
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelError(f"{path} holds no flat dictionary of tensors")
    return weights


def _unreadable(path: Path, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return ModelError(
        f"{path} cannot be read as weights ({reason}). It is truncated, damaged, or a pickle that holds more than "
        "tensors, which is never executed. Download it again, or convert it to .safetensors where you trust it."
    )


def check_shapes(weights: dict[str, Tensor], expected: dict[str, Tensor], *, source: object) -> None:
    """Raise ModelError unless names and shapes agree; the first few differences are named."""
    missing = [name for name in expected if name not in weights]
    extra = [name for name in weights if name not in expected]
    wrong = [
        f"{name} is {list(weights[name].shape)}, needs {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems = [f"missing {name}" for name in missing] + [f"unknown {name}" for name in extra] + wrong
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise ModelError(f"the weights of {source} do not fit this model: {shown}")
