"""The layout of the published students: a config.json, and one weight file that carries its policy in its metadata.

Source: the authors' public implementation of pi-Flow (LakonLab) and its released weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from piflow_cli.formats.native import CARD
from piflow_cli.formats.released.files import ReleasedFile, is_adapter_file, plain_names
from piflow_cli.formats.released.layouts import (
    CARD_KEY,
    CONFIG,
    LAYOUTS,
    VAE,
    WEIGHTS,
    ask_for_preset,
    head_of,
    is_released,
    layout_of,
    released_network,
    to_released,
)
from piflow_cli.formats.student import Recipe, StoredStudent, StudentCard
from piflow_cli.io.tensors.files import write_tensors
from piflow_cli.io.weights import read_checked, read_header, read_json

STOCK_CLASSES = ("FluxTransformer2DModel", "QwenImageTransformer2DModel", "Flux2Transformer2DModel")
"""Classes of diffusers that released DX students share with their bases: the name alone says nothing."""
PICKLE_SUFFIXES = (".pth", ".pt", ".bin")


class LakonlabFormat:
    """A folder with config.json and the weights; a single weight file of a whole network can be read too."""

    name, suffix, holds_adapters = "lakonlab", "", True

    def matches(self, path: Path) -> bool:
        """Whether the config's class, or the names and metadata of the weight file, are a released student's."""
        file = _weight_file(path)
        if not file.is_file() or (path / CARD).is_file():
            return False
        if file.suffix in PICKLE_SUFFIXES:
            return True  # nothing can be said without reading it
        if file.suffix != ".safetensors":
            return False
        class_name = _read_config(file).get("_class_name")
        if class_name not in STOCK_CLASSES and any(layout.policy_of(class_name) for layout in LAYOUTS.values()):
            return True
        return is_released(*read_header(file)) and not is_adapter_file(file)

    def usual_preset(self, path: Path) -> str | None:
        """The preset that published students of this class were trained by; the folder's name tells the NFE.

        None where the file says it itself, or nothing does.
        """
        file = _weight_file(path)
        if file.suffix != ".safetensors" or CARD_KEY in read_header(file)[1]:
            return None
        class_name = _read_config(file).get("_class_name")
        usual = (layout.usual_preset(layout.policy_of(class_name), path) for layout in LAYOUTS.values())
        return next((preset for preset in usual if preset is not None), None)

    def read(self, path: Path, *, recipe: Recipe | None = None) -> StoredStudent:
        """Read a released student; where it lacks this package's card, the recipe says what the layout does not.

        Raises:
            ModelError: it is damaged, of an unknown layout, at odds with the recipe, or there is no recipe.
        """
        file = _weight_file(path)
        metadata = read_header(file)[1] if file.suffix == ".safetensors" else {}
        weights = plain_names(read_checked(file), source=file)
        student = ReleasedFile(file, weights, metadata, _read_config(file)).student(recipe)
        if student is None:
            raise ask_for_preset(path)
        vae = path / VAE
        student.vae_folder = vae if vae.is_dir() else None
        return student

    def check(self, card: StudentCard) -> None:
        """Raise ModelError where the layout has no place for this teacher or policy."""
        layout_of(card.teacher)
        head_of(card.policy)

    def write(self, student: StoredStudent, place: Path) -> None:
        """Write config, weights with metadata, and the autoencoder into an empty folder.

        Raises:
            ModelError: as `check`.
        """
        self.check(student.card)
        weights, config, metadata = to_released(student)
        (place / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_tensors(place / WEIGHTS, weights, metadata=metadata)
        if student.vae_folder is not None:
            shutil.copytree(student.vae_folder, place / VAE)

    def caveats(self, student: StoredStudent) -> tuple[str, ...]:
        """What the authors' own code would get wrong about the student."""
        return released_network(student).caveats


def _weight_file(path: Path) -> Path:
    return path / WEIGHTS if path.is_dir() else path


def _read_config(file: Path) -> dict[str, Any]:
    """The config beside a weight file, empty where there is none."""
    path = file.with_name(CONFIG)
    return read_json(path) if path.is_file() else {}
