"""The autoencoder of a DiT that works on latents: where it is, and reading it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from piflow_cli.errors import ModelError
from piflow_cli.io.bounds import check_config
from piflow_cli.io.hub import fetch_folder, locate
from piflow_cli.io.texts.names import first_line
from piflow_cli.io.weights import check_values, find_weights, read_json
from piflow_cli.teachers.configs import check_kinds

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

WEIGHT_FILES = ("diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.bin")


def find_vae(source: str, *, revision: str | None = None, part: str = "") -> Path:
    """The folder of an autoencoder; of a hub id its files are downloaded, pickles only where there are no others.

    Args:
        source: a folder or hub id.
        revision: of the hub.
        part: the autoencoder's folder inside the source.

    Raises:
        ModelError: missing or unreachable.
    """
    place = locate(source)
    if isinstance(place, Path):
        return place / part
    prefix = f"{part}/" if part else ""
    for pattern in WEIGHT_FILES:
        found = fetch_folder(place, [f"{prefix}config.json", f"{prefix}{pattern}"], revision=revision) / part
        if any(found.glob(pattern)):
            break
    return found


def load_vae(folder: Path, *, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """The frozen autoencoder in a folder.

    Raises:
        ModelError: it is damaged, or something else.
    """
    from diffusers import AutoencoderKL

    config = read_json(folder / "config.json")
    if config.get("_class_name") != AutoencoderKL.__name__:
        raise ModelError(f"{folder} holds {config.get('_class_name')}, not {AutoencoderKL.__name__}")
    check_config(config, origin=folder / "config.json")
    check_kinds(config, AutoencoderKL, origin=folder / "config.json")
    try:
        found = find_weights([path.name for path in folder.iterdir()])
        vae, said = AutoencoderKL.from_pretrained(
            str(folder),
            torch_dtype=dtype,
            variant=found.variant if found is not None else None,
            output_loading_info=True,
            local_files_only=True,
        )
    except Exception as error:  # the library's errors about damage share no ground class
        raise ModelError(f"{folder} holds no autoencoder that can be read: {first_line(error)}") from None
    if said["missing_keys"] or said["unexpected_keys"]:
        named = [f"missing {key}" for key in said["missing_keys"]] + [
            f"unknown {key}" for key in said["unexpected_keys"]
        ]
        raise ModelError(f"the weights of the autoencoder in {folder} do not fit its config: {'; '.join(named[:4])}")
    check_values(dict(vae.named_parameters()), source=folder)
    return vae.requires_grad_(False).eval()
