"""A text-to-image teacher in outline: its transformer on the meta device, and the files that its weights are read from.

For processes that hold a part of the transformer each; encoders and autoencoder are loaded as ever.
"""

from __future__ import annotations

from pathlib import Path

from piflow_cli.errors import ModelError
from piflow_cli.io.hub import fetch_folder, locate
from piflow_cli.io.tensors.slices import SlicedWeights
from piflow_cli.io.texts.names import user_path
from piflow_cli.io.weights import find_weights
from piflow_cli.teachers.text.settings import TextSettings

TRANSFORMER = "transformer"


def transformer_files(settings: TextSettings) -> SlicedWeights:
    """The transformer's weight files, fetched from the hub where they are there, none of them read.

    Raises:
        ModelError: quantised or single-file transformers, which are not read in slices, or there are no files.
    """
    if settings.quantization != "none":
        raise ModelError(
            f"teacher.quantization {settings.quantization}: a quantised base is not sharded; use --strategy ddp, or "
            "teacher.quantization none with --strategy fsdp2"
        )
    if settings.transformer is not None and not user_path(settings.transformer).is_dir():
        raise ModelError(
            f"teacher.transformer {settings.transformer} is one file, of which no slices are read; save it as a "
            "diffusers folder, or use --strategy ddp"
        )
    folder = _folder(settings)
    found = (
        find_weights([path.name for path in folder.iterdir()], variant=settings.variant) if folder.is_dir() else None
    )
    if found is None or found.missing:
        lacks = ", ".join(found.missing[:4]) if found is not None else "diffusion_pytorch_model*.safetensors"
        raise ModelError(f"{folder} lacks {lacks}")
    return SlicedWeights([folder / name for name in found.names])


def _folder(settings: TextSettings) -> Path:
    if settings.transformer is not None:
        return user_path(settings.transformer)
    source = locate(settings.source)
    if isinstance(source, Path):
        return source / TRANSFORMER
    patterns = (f"{TRANSFORMER}/*.json", f"{TRANSFORMER}/*.safetensors")
    return (
        fetch_folder(source, patterns, revision=settings.revision, local_only=settings.local_files_only) / TRANSFORMER
    )
