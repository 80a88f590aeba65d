"""What a source on this machine says of its parts: counted on the meta device from configs, no weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from piflow_cli.core.interfaces import Part
from piflow_cli.io.bounds import check_config
from piflow_cli.io.hub import locate
from piflow_cli.io.texts.names import user_path
from piflow_cli.io.weights import read_json
from piflow_cli.io.zoo import PREFIX
from piflow_cli.teachers.classes import library_class

INDEX, AUTOENCODER = "model_index.json", "vae"


def local_source(source: str) -> Path | None:
    """The folder or file of a source where it is on this machine, None where it is not, or may be a hub id.

    Raises:
        ModelError: there is no such zoo:NAME.
    """
    if source.startswith(PREFIX):
        return Path(locate(source))
    path = user_path(source)
    return path if path.exists() else None


def counted_parts(source: str, *, encoders: Sequence[str] = ()) -> tuple[Part, ...] | None:
    """Text encoders and autoencoder of a pipeline's folder, None where the source is none on this machine.

    Raises:
        ModelError: a part that is no class of diffusers' or transformers', or whose config cannot be read.
    """
    folder = local_source(source)
    if folder is None or not (folder / INDEX).is_file():
        return None
    index = read_json(folder / INDEX)
    named = {name: entry for name, entry in index.items() if name in (AUTOENCODER, *encoders)}
    return tuple(_counted(folder, name, entry) for name, entry in named.items() if entry != [None, None])


def _counted(folder: Path, name: str, entry: list[str]) -> Part:
    """A part built on the meta device from its config."""
    part_class = library_class(entry, part=name, origin=folder / INDEX)
    path = folder / name / "config.json"
    config = read_json(path)
    check_config(config, origin=path)
    with torch.device("meta"):
        if entry[0] == "transformers":
            module = part_class(part_class.config_class.from_pretrained(folder / name))
        else:
            module = part_class.from_config(config)
    return Part(
        name=f"{entry[1]} ({name})",
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        is_encoder=name != AUTOENCODER,
        known_from="its config",
    )
