"""A student with every weight its own, as a diffusers transformer folder in shards, with its card beside them.

The names and the config are the released ones, so that diffusers' own class loads DX students, and the authors' classes
load mixtures. Text encoders and autoencoder of text-to-image students stay with the base.
"""

import json
import shutil
from pathlib import Path

from torch import Tensor

from piflow_cli.errors import ModelError
from piflow_cli.formats.native import CARD, read_card, write_card
from piflow_cli.formats.released.layouts import (
    CARD_KEY,
    CONFIG,
    INDEX,
    VAE,
    WEIGHTS,
    has_weights,
    head_of,
    layout_of,
    own_names,
    released_network,
    to_released,
)
from piflow_cli.formats.student import Recipe, StoredStudent, StudentCard
from piflow_cli.io.weights import read_checked, read_json

SHARDS = WEIGHTS.replace(".safetensors", "{suffix}.safetensors")
MAX_SHARD_BYTES = 10_000_000_000


class MergedFormat:
    """student.json, config.json, and the weights in shards with an index."""

    name, suffix, holds_adapters = "merged", "", False

    def matches(self, path: Path) -> bool:
        """Whether there is a card, and weights by released names."""
        return (path / CARD).is_file() and has_weights(path)

    def usual_preset(self, path: Path) -> None:
        """None: the card says it."""

    def read(self, path: Path, *, recipe: Recipe | None = None) -> StoredStudent:  # noqa: ARG002
        """Read card and weights; the card says everything, so that no recipe is needed.

        Raises:
            ModelError: a file is missing, damaged, or of a version this release cannot read.
        """
        card, vae = read_card(path), path / VAE
        weights = own_names(card, read_shards(path), {})
        return StoredStudent(card=card, weights=weights, vae_folder=vae if vae.is_dir() else None)

    def check(self, card: StudentCard) -> None:
        """Raise ModelError for LoRA that is not merged, and where no released names are known."""
        layout_of(card.teacher)
        head_of(card.policy)
        if card.adapter is not None:
            raise ModelError("a merged student has no LoRA beside its weights; `piflow convert` merges it")

    def write(self, student: StoredStudent, place: Path) -> None:
        """Write card, config, shards and autoencoder into an empty folder.

        Raises:
            ModelError: as `check`.
        """
        from huggingface_hub import save_torch_state_dict

        self.check(student.card)
        weights, config, metadata = to_released(student)
        del metadata[CARD_KEY]  # it has a file of its own
        write_card(student.card, place)
        (place / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_torch_state_dict(
            weights, place, filename_pattern=SHARDS, max_shard_size=MAX_SHARD_BYTES, metadata=metadata
        )
        if student.vae_folder is not None:
            shutil.copytree(student.vae_folder, place / VAE)

    def caveats(self, student: StoredStudent) -> tuple[str, ...]:
        """What the authors' own code would get wrong about the student."""
        return released_network(student).caveats


def read_shards(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder, from one file or from the shards that an index names.

    Raises:
        ModelError: index or shard is missing or damaged, or they do not belong together.
    """
    if not (folder / INDEX).is_file():
        return read_checked(folder / WEIGHTS)
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or any(Path(str(name)).name != name for name in places.values()):
        raise ModelError(f"{folder / INDEX} has no weight_map of tensors to files beside it")
    weights: dict[str, Tensor] = {}
    for name in dict.fromkeys(places.values()):
        weights |= read_checked(folder / name)
    missing = [name for name in places if name not in weights]
    if missing:
        raise ModelError(f"the shards of {folder} lack {', '.join(missing[:4])}, which {INDEX} names")
    return weights
