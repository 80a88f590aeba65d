"""Text encoders and the autoencoder of a base, whole: what a file lacks, the libraries draw at random and only log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from piflow_cli.errors import ModelError
from piflow_cli.io.weights import find_weights

NUM_SHOWN = 4


def load_whole(module_class: Any, folder: Path, *, dtype: torch.dtype, variant: str | None) -> nn.Module:
    """A model of diffusers or transformers with every weight from its files.

    Args:
        module_class: of either library.
        folder: with its config and weights.
        dtype: of the weights.
        variant: such as fp16, where the folder has files of it.

    Raises:
        ModelError: weights are missing, or of other shapes.
        Exception: whatever the library raises for damage.
    """
    module, said = _load(module_class, folder, variant, dtype=dtype)
    _check(said, folder)
    return module


def check_whole(module_class: Any, folder: Path, *, variant: str | None) -> None:
    """As `load_whole`, and keeps nothing: for a library that places the weights itself, by a map of devices."""
    _, said = _load(module_class, folder, variant, device_map="meta")
    _check(said, folder)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a processor's folder, without what the processor has for pictures.

    Raises:
        Exception: whatever the library raises for damage.
    """
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def _load(module_class: Any, folder: Path, variant: str | None, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    found = find_weights([path.name for path in folder.iterdir()], variant=variant)
    return module_class.from_pretrained(
        str(folder),
        variant=found.variant if found is not None else None,
        output_loading_info=True,
        local_files_only=True,
        **options,
    )


def _check(said: dict[str, Any], folder: Path) -> None:
    problems = [f"missing {name}" for name in sorted(said["missing_keys"])]
    problems += [f"{key[0]} has another shape" for key in sorted(said["mismatched_keys"])]
    if problems:
        more = f"; and {len(problems) - NUM_SHOWN} more" if len(problems) > NUM_SHOWN else ""
        raise ModelError(
            f"the weights in {folder} do not fit their config: {'; '.join(problems[:NUM_SHOWN])}{more}. They would be "
            "drawn at random; take the folder from where it is whole"
        )
