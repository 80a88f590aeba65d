"""Opening and writing .safetensors: the one place, so that damage comes out as a known error everywhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from piflow_cli.errors import ModelError, PiflowError, StorageError
from piflow_cli.io.regular import require_regular

if TYPE_CHECKING:
    from safetensors import safe_open


@contextmanager
def open_tensors(path: Path, *, what: str = "weights", error: type[PiflowError] = ModelError) -> Iterator["safe_open"]:
    """The open file: `keys()`, `metadata()`, `get_tensor(name)`, `get_slice(name)`; only what is asked for is read.

    Args:
        what: it should hold, for messages.
        error: what damage is raised as, here and while it is read within the context.

    Raises:
        PiflowError: of the class `error`: missing, damaged, or without a tensor that is asked for.
    """
    from safetensors import SafetensorError, safe_open

    try:
        require_regular(path)  # safetensors itself would wait for ever for what a pipe says
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise error(f"there is no file {path} of {what}") from None
    except (SafetensorError, OSError) as damage:
        reason = str(damage).strip()
        raise error(
            f"{path} cannot be read as {what} ({reason}). It is truncated or damaged: download or write it again."
        ) from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a .safetensors file in place; callers write into what is renamed when it is whole.

    Args:
        tensors: by name; those that are no contiguous memory are copied.
        metadata: beside the format, which is always said.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata={"format": "pt"} | dict(metadata or {}))
    except (SafetensorError, OSError) as problem:
        raise StorageError(
            f"cannot write {path}: {str(problem).strip()}. Free some space or choose another place."
        ) from None
