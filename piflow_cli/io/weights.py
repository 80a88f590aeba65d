"""Reading model files safely: JSON objects, state dicts without executing a pickle, and whether they fit a module."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from piflow_cli.errors import ModelError
from piflow_cli.io.bounds import MAX_TEXT_BYTES, bounded_json
from piflow_cli.io.checksums import TENSORS_KEY, tensors_sha256
from piflow_cli.io.regular import read_regular, require_regular
from piflow_cli.io.tensors.files import open_tensors

WEIGHT_NAME = re.compile(
    r"(diffusion_pytorch_model|model|pytorch_model)(?:\.(?P<variant>\w+))?"
    r"(?:-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?(?:\.(?P<late_variant>\w+))?\.(?P<suffix>safetensors|bin)"
)
"""How diffusers and transformers call the weight files of a model; a variant may be named on either side of a shard."""


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold a model's weights once.

    Args:
        variant: such as fp16, None for files that name none.
        names: the files.
        missing: shards that the names of the others count, and that are not there.
    """

    variant: str | None
    names: tuple[str, ...]
    missing: tuple[str, ...]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file is missing, or is not a JSON object.
    """
    try:
        value = bounded_json(read_regular(path, max_bytes=MAX_TEXT_BYTES))
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
    with open_tensors(path) as file:
        return list(file.keys()), file.metadata() or {}


def read_dtypes(path: Path) -> dict[str, str]:
    """The dtype of every tensor of a .safetensors file as the file names it, such as BF16; no tensor is read.

    Raises:
        ModelError: as `read_header`.
    """
    with open_tensors(path) as file:
        return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from a pickled .pth without executing anything in it.

    Of a training checkpoint, which holds several, it is the average of the weights (ema) where there is one.

    Raises:
        ModelError: the file is truncated, is no state dict, or is a pickle that needs more than tensors.
    """
    try:
        require_regular(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"there is no file {path} of weights") from None
    except Exception as error:  # safetensors, zip and unpickling errors share no ground class
        raise _unreadable(path, error) from None
    for wrapper in ("state_dict", "ema", "model"):
        if isinstance(weights, dict) and isinstance(weights.get(wrapper), dict):
            weights = weights[wrapper]
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelError(f"{path} holds no flat dictionary of tensors")
    return weights


def read_checked(path: Path) -> dict[str, Tensor]:
    """Read a state dict and check what can be said of it alone: values, and the digest in its metadata if it has one.

    Names in .alpha, which other software writes beside LoRA, are no weights and may be integers.

    Raises:
        ModelError: as `read_weights`; not finite, no floating-point numbers, or other tensors than were written.
    """
    weights = read_weights(path)
    check_values({name: t for name, t in weights.items() if not name.endswith(".alpha")}, source=path)
    said = read_header(path)[1].get(TENSORS_KEY) if path.suffix == ".safetensors" else None
    if said is not None and said != tensors_sha256(weights):
        raise ModelError(
            f"the weights of {path} are not those that were written: their SHA-256 is not the {TENSORS_KEY} of its "
            "metadata. It was damaged on the way; take it from where it is whole."
        )
    return weights


def _unreadable(path: Path, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return ModelError(
        f"{path} cannot be read as weights ({reason}). It is truncated, damaged, or a pickle that holds more than "
        "tensors, which is never executed. Download it again, or convert it to .safetensors where you trust it."
    )


def find_weights(names: Iterable[str], *, variant: str | None = None) -> WeightFiles | None:
    """Which files of a model's folder hold its weights; None where there are none.

    Safetensors come before pickles; the variant asked for before files without one, and those before the first variant
    that is there.

    Args:
        names: of the files in the folder.
        variant: such as fp16.
    """
    found: dict[tuple[str, str | None], list[re.Match[str]]] = {}
    for match in filter(None, map(WEIGHT_NAME.fullmatch, sorted(names))):
        found.setdefault((match["suffix"], match["variant"] or match["late_variant"]), []).append(match)
    if not found:
        return None
    key = min(found, key=lambda key: (key[0] != "safetensors", key[1] != variant, key[1] is not None, key[1] or ""))
    files = [match for match in found[key] if match["shard"] is None] or found[key]
    missing = []
    if files[0]["shard"] is not None:
        wanted = [_shard_name(files[0], index + 1) for index in range(int(files[0]["shards"]))]
        missing = [name for name in wanted if name not in {match.string for match in files}]
    return WeightFiles(variant=key[1], names=tuple(match.string for match in files), missing=tuple(missing))


def _shard_name(match: re.Match[str], index: int) -> str:
    start, end = match.span("shard")
    return f"{match.string[:start]}{index:05d}{match.string[end:]}"


def check_values(weights: Mapping[str, Tensor], *, source: object) -> None:
    """Raise ModelError unless all weights are finite floating-point numbers; the first ones that are not are named."""
    kinds = [f"{name} is {str(t.dtype)[6:]}" for name, t in weights.items() if not t.is_floating_point()]
    if kinds:
        raise ModelError(f"the weights of {source} are no floating-point numbers: {_first(kinds)}")
    broken = [name for name, tensor in weights.items() if not _is_finite(tensor)]
    if broken:
        raise ModelError(
            f"the weights of {source} are not finite (NaN or infinite) in {_first(broken)}. They are damaged, or their "
            "training diverged; take them from where they are whole."
        )


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; a minimum and maximum are NaN where one value is, and cost no memory."""
    if tensor.numel() == 0 or tensor.is_meta:
        return True
    low, high = torch.aminmax(tensor.detach() if tensor.element_size() > 1 else tensor.detach().float())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def check_layers(config: Mapping[str, Any], names: Collection[str], *, source: object) -> None:
    """Raise ModelError for a configuration of more layers than there are tensors, before anything is built of it."""
    for key, value in config.items():
        if key.startswith("num_") and key.endswith("layers") and isinstance(value, int) and value > len(names):
            raise ModelError(f"{source} says {key} = {value}, but its weights are {len(names)} tensors: it is damaged")


def _first(problems: list[str], shown: int = 4) -> str:
    return "; ".join(problems[:shown]) + (f"; and {len(problems) - shown} more" if len(problems) > shown else "")


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
        raise ModelError(f"the weights of {source} do not fit this model: {_first(problems)}")


@contextmanager
def without_bars() -> Iterator[None]:
    """Without the loading bars of diffusers and transformers: they download nothing, and one a part says little."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = [lib for lib in (diffusers_logging, transformers_logging) if lib.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()
