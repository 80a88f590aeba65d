"""Tensors as torch's distributed checkpointing writes them: read whole by one process, or in parts by several."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from piflow_cli.errors import StorageError
from piflow_cli.io.regular import require_regular
from piflow_cli.io.texts.names import first_line


def stored_tensors(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Whole shape and dtype of each tensor of a checkpoint, from the headers of its files.

    Raises:
        StorageError: they cannot be read, or name no tensors of a checkpoint.
    """
    try:
        for path in folder.glob("*.safetensors"):
            require_regular(path)
        return dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except Exception as error:  # what torch reads of a header that lies ends in errors of many classes
        raise StorageError(f"cannot read the tensors of {folder}: {first_line(error)}") from None


def load_tensors(targets: dict[str, Tensor], folder: Path, *, group: ProcessGroup | None = None) -> None:
    """Fill tensors, or shards of them, from a checkpoint; safetensors are read, and nothing is unpickled.

    Raises:
        StorageError: they cannot be read.
    """
    reader = dcp.HuggingFaceStorageReader(str(folder))
    try:
        expect_one_process()
        dcp.load(targets, storage_reader=reader, process_group=group, no_dist=group is None)
    except dcp.CheckpointException as error:
        raise StorageError(f"cannot read {folder}: {error}") from None


def read_tensors(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names begin so: whole, on the CPU."""
    stored = {name: facts for name, facts in stored_tensors(folder).items() if name.startswith(prefix)}
    targets = {name: torch.empty(facts.size, dtype=facts.properties.dtype) for name, facts in stored.items()}
    load_tensors(targets, folder)
    return targets


def expect_one_process() -> None:
    """Have torch say nothing of a process that reads or writes a checkpoint alone, in whatever thread it does."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
