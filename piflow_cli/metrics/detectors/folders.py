"""Folders of transformers' models that look at pictures: what is fetched of them, and which weights are read."""

from dataclasses import dataclass
from pathlib import Path

from piflow_cli.errors import ModelError
from piflow_cli.io.checksums import file_sha256
from piflow_cli.io.hub import fetch_folder, locate

CONFIG = "config.json"
SMALL = ("*.json", "*.txt", "*.model", "*.jinja")
"""Configurations and tokenizers."""
SAFE, PICKLED = "*.safetensors", "pytorch_model*.bin"


@dataclass(frozen=True)
class ModelFolder:
    """A model here.

    Args:
        path: its folder.
        is_safe: whether its weights are .safetensors; else they are pickles, of which torch reads tensors alone.
        first: a file of its weights.
    """

    path: Path
    is_safe: bool
    first: Path

    @property
    def reading(self) -> dict[str, bool]:
        """How `from_pretrained` is to read it: tensors alone, from this machine."""
        return {"use_safetensors": self.is_safe, "weights_only": True, "local_files_only": True}

    def name(self, kind: str) -> str:
        """What tables call it: its kind and eight digits of its weights."""
        return f"{kind}-{file_sha256(self.first)[:8]}"


def model_folder(spec: str) -> ModelFolder:
    """The local folder of a model, downloaded if need be: .safetensors where there are any, else pytorch_model.bin.

    Args:
        spec: a folder or a hub id.

    Raises:
        ModelError: it cannot be had, or has no config or no weights.
    """
    found = locate(spec, part="detector")
    for kind in (SAFE, PICKLED):
        path = found if isinstance(found, Path) else fetch_folder(found, (*SMALL, kind))
        if not (path / CONFIG).is_file():
            raise ModelError(f"{path} has no {CONFIG}, and so no model of transformers")
        files = sorted(path.glob(kind))
        if files:
            return ModelFolder(path, is_safe=kind == SAFE, first=files[0])
    raise ModelError(f"{path} has no .safetensors and no pytorch_model.bin, one of which holds a model's weights")
