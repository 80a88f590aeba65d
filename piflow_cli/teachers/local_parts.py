"""What a source on this machine says of its parts: counted on the meta device from configs, no weights are read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from piflow_cli.core.interfaces import Part
from piflow_cli.errors import ModelError
from piflow_cli.io.hub import locate
from piflow_cli.io.weights import read_json
from piflow_cli.io.zoo import PREFIX

INDEX, AUTOENCODER, ENCODER = "model_index.json", "vae", "text_encoder"


def local_source(source: str) -> Path | None:
    """The folder or file of a source where it is on this machine, None where it is not, or may be a hub id.

    Raises:
        ModelError: there is no such zoo:NAME.
    """
    if source.startswith(PREFIX):
        return Path(locate(source))
    path = Path(source).expanduser()
    return path if path.exists() else None


def counted_parts(source: str) -> tuple[Part, ...] | None:
    """Text encoders and autoencoder of a pipeline's folder, None where the source is none on this machine.

    Raises:
        ModelError: a part that is no class of diffusers' or transformers', or whose config cannot be read.
    """
    folder = local_source(source)
    if folder is None or not (folder / INDEX).is_file():
        return None
    index = read_json(folder / INDEX)
    named = {name: entry for name, entry in index.items() if name == AUTOENCODER or name.startswith(ENCODER)}
    return tuple(_counted(folder / name, *_entry(folder, name, entry)) for name, entry in named.items() if entry[0])


def _entry(folder: Path, name: str, entry: object) -> tuple[str, str]:
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(text, str) for text in entry):
        return entry[0], entry[1]
    raise ModelError(f"{folder / INDEX}: {name} is {entry!r}, not the library and the class of a part")


def _counted(folder: Path, library: str, class_name: str) -> Part:
    """A part built on the meta device from its config."""
    part_class = _model_class(folder, library, class_name)
    with torch.device("meta"):
        if library == "transformers":
            module = part_class(part_class.config_class.from_pretrained(folder))
        else:
            module = part_class.from_config(read_json(folder / "config.json"))
    return Part(
        name=f"{class_name} ({folder.name})",
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        is_encoder=folder.name != AUTOENCODER,
        known_from="its config",
    )


def _model_class(folder: Path, library: str, class_name: str) -> type[nn.Module]:
    """The model class of that name; nothing but diffusers' and transformers' own models is resolved.

    Raises:
        ModelError: it is none of them.
    """
    import diffusers
    import transformers

    grounds = {"diffusers": diffusers.ModelMixin, "transformers": transformers.PreTrainedModel}
    if (ground := grounds.get(library)) is not None:
        found = getattr(diffusers if library == "diffusers" else transformers, class_name, None)
        if isinstance(found, type) and issubclass(found, ground):
            return found
    raise ModelError(
        f"{folder.parent / INDEX}: {folder.name} is {library}.{class_name}, which is no model class of diffusers or "
        "transformers; nothing else is loaded"
    )
