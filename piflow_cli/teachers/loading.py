"""What every teacher family needs to open a model: where its source is, and safe reading of weight files."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from piflow_cli.errors import ModelError

ZOO = Path(__file__).parents[1] / "zoo"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def locate(source: str, *, part: str = "teacher") -> Path | str:
    """Return the local path of a source, or the source itself where it is a hub id.

    Args:
        source: a folder, a weight file, a hub id `owner/name`, or `zoo:NAME` for what ships with the package.
        part: the folder inside a zoo entry.

    Raises:
        ModelError: there is no such folder, and the source is no hub id either.
    """
    if source.startswith("zoo:"):
        path = ZOO / source.removeprefix("zoo:") / part
        if not path.is_dir():
            known = ", ".join(f"zoo:{p.parent.name}" for p in sorted(ZOO.glob(f"*/{part}")))
            raise ModelError(f"no embedded model {source!r}. Embedded: {known}.")
        return path
    path = Path(source).expanduser()
    if path.exists():
        return path
    if HUB_ID.fullmatch(source) and not source.endswith(WEIGHT_SUFFIXES):
        return source
    raise ModelError(
        f"{source!r} does not exist here and is no hub id (owner/name). "
        "Pass a diffusers folder, a .safetensors or .pth file, a hub id, or zoo:digits."
    )


def unreachable(source: str, error: Exception) -> ModelError:
    """The error for a hub id whose files cannot be had."""
    return ModelError(
        f"cannot get {source!r} from the model hub: {type(error).__name__}. Without network, download it where there is "
        f"one (`hf download {source} --local-dir FOLDER`; gated models need `hf auth login` and accepted terms) and pass "
        "the folder instead of the id."
    )


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
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{path} cannot be read as weights ({reason}). It is truncated, damaged, or a pickle that holds more than "
            "tensors, which is never executed. Download it again, or convert it to .safetensors where you trust it."
        ) from None
    for wrapper in ("state_dict", "model", "ema"):
        if isinstance(weights, dict) and isinstance(weights.get(wrapper), dict):
            weights = weights[wrapper]
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelError(f"{path} holds no flat dictionary of tensors")
    return weights


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
