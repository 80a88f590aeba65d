"""A small source of every kind of data, on disk where it reads files, and the space of a teacher that it is for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pixel_space import PixelSpace
from safetensors.torch import save_file

from piflow_cli.teachers.dit.space import DiTSpace

CLASSES = DiTSpace(labels={i: str(i) for i in range(10)}, latent_shape=(1, 8, 8))
TEXT = PixelSpace()
SIZE_PX = (12, 8)


def class_folders(folder: Path) -> dict[str, Any]:
    """Two pictures in each of ten folders."""
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", SIZE_PX, (20 * label + i,) * 3).save(folder / str(label) / f"{i}.png")
    return {"path": str(folder)}


def latents_file(folder: Path) -> dict[str, Any]:
    """Twenty latents with labels."""
    folder.mkdir()
    values = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    save_file({"latents": values, "labels": torch.arange(20) % 10}, folder / "a.safetensors")
    return {"path": str(folder)}


def prompts_file(folder: Path) -> dict[str, Any]:
    """Twenty prompts."""
    folder.mkdir()
    (folder / "prompts.txt").write_text("\n".join(f"prompt {i}" for i in range(20)), encoding="utf-8")
    return {"path": str(folder / "prompts.txt")}


def captioned_folder(folder: Path) -> dict[str, Any]:
    """Twenty pictures with captions."""
    folder.mkdir()
    for i in range(20):
        Image.new("RGB", SIZE_PX, (12 * i,) * 3).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"caption {i}", encoding="utf-8")
    return {"path": str(folder)}


SOURCES: dict[str, tuple[Callable[[Path], dict[str, Any]], Any]] = {
    "images": (class_folders, CLASSES),
    "latents": (latents_file, CLASSES),
    "prompts": (prompts_file, TEXT),
    "captioned": (captioned_folder, TEXT),
}
"""Keys of the settings, made in a folder, and the space; a kind that is not here has defaults for all, and classes."""
