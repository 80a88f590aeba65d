"""What a DiT's source says of itself without its weights: config, scheduler, class names; and what it leaves open.

A folder decides by what it holds. Settings say what it does not, and all that nobody says is asked for at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_cli.errors import ModelError
from piflow_cli.io.hub import fetch_folder, local_path, locate
from piflow_cli.io.weights import find_weights, read_json, read_weights
from piflow_cli.teachers.dit.config import (
    PICTURE_CHANNELS,
    check_scheduler,
    checked_config,
    infer_config,
    prediction_of,
)

if TYPE_CHECKING:
    from piflow_cli.teachers.dit.settings import DiTSettings

CONFIG_FILES = ("*.json",)
"""What describes a model in a hub repository, in folders of any depth."""
SCHEDULER, VAE = "scheduler/scheduler_config.json", "vae"
NAMES = ("id2label", "labels")
"""Keys of a model_index.json under which class names are kept."""


@dataclass(frozen=True)
class Description:
    """What a source says.

    Args:
        config: of the module, with its defaults.
        scheduler: its config, None where there is none.
        labels: class names by index, None where there are none.
        has_vae: whether the source holds an autoencoder.
        is_pipeline: whether it is a whole pipeline, which would hold one if there were any.
    """

    config: dict[str, Any]
    scheduler: dict[str, Any] | None = None
    labels: dict[int, str] | None = None
    has_vae: bool = False
    is_pipeline: bool = False

    @property
    def channels(self) -> int:
        """Of the latents, or of pictures."""
        return self.config["in_channels"]

    @property
    def works_on_pixels(self) -> bool:
        """Whether the network takes pictures: a whole pipeline that holds no autoencoder."""
        return self.is_pipeline and not self.has_vae and self.channels in PICTURE_CHANNELS


def describe(settings: DiTSettings) -> Description:
    """What the settings' source says, without reading weights where configs say it.

    Raises:
        ModelError: the source is missing, unreachable, or of another family.
    """
    source = fetch(settings, CONFIG_FILES)
    if source.is_file():
        beside = source.with_name("config.json")
        config = read_json(beside) if beside.exists() else infer_config(settings, read_weights(source))
        return Description(checked_config(config, settings.source))
    index, is_pipeline = {}, (source / "model_index.json").exists()
    if is_pipeline:
        index = read_json(source / "model_index.json")
    config = checked_config(read_json(transformer_folder(source) / "config.json"), settings.source)
    path = source / SCHEDULER
    scheduler = read_json(path) if path.exists() else None
    check_scheduler(scheduler, path)
    return Description(
        config=config,
        scheduler=scheduler,
        labels=class_names(index),
        has_vae=(source / VAE / "config.json").exists(),
        is_pipeline=is_pipeline,
    )


def fetch(settings: DiTSettings, files: Sequence[str]) -> Path:
    """The source's folder or file; of a hub id those files are downloaded that match, or found where they were before.

    Raises:
        ModelError: it is missing or unreachable.
    """
    source = locate(settings.source)
    if isinstance(source, Path):
        return source
    return fetch_folder(source, files, revision=settings.revision)


def is_here(settings: DiTSettings) -> bool:
    """Whether the source, or at least its configs, are on this machine."""
    try:
        return local_path(settings.source, revision=settings.revision) is not None
    except ModelError:  # neither a path nor a hub id: a file that is still to come
        return False


def transformer_folder(folder: Path) -> Path:
    """Where the module is: inside a pipeline's folder, or the folder itself."""
    return folder / "transformer" if (folder / "transformer").is_dir() else folder


def weights_here(settings: DiTSettings) -> list[Path]:
    """The module's weight files that are on this machine, none where they are not all."""
    place = local_path(settings.source, revision=settings.revision)
    if place is None or place.is_file():
        return [] if place is None else [place]
    folder = transformer_folder(place)
    found = find_weights([path.name for path in folder.iterdir()])
    return [] if found is None or found.missing else [folder / name for name in found.names]


def class_names(index: dict[str, Any]) -> dict[int, str] | None:
    """Class names of a model_index.json: a list, a table of names by class, or one of classes by name.

    Raises:
        ModelError: something else.
    """
    key = next((key for key in NAMES if index.get(key)), None)
    if key is None:
        return None
    found = index[key]
    pairs = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    names: dict[int, list[str]] = {}
    try:
        for left, right in pairs:
            number, name = (right, left) if isinstance(right, int) else (left, right)
            if isinstance(number, bool) or not isinstance(name, str):
                raise ValueError
            names.setdefault(int(number), []).append(name)
    except ValueError:
        names = {}
    if not names:
        raise ModelError(f"{key} of model_index.json is no table of names by class: {str(found)[:100]}")
    return {number: ", ".join(several) for number, several in sorted(names.items())}


def check(settings: DiTSettings, said: Description, *, pictures: bool) -> None:
    """Raise ModelError where settings and source contradict each other, or where something is said by neither.

    Args:
        pictures: whether pictures are to be encoded or decoded.
    """
    contradictions = _contradictions(settings, said)
    if contradictions:
        raise ModelError(
            f"{'; '.join(contradictions)}. A folder decides by what it holds: leave the key out (--set teacher.KEY=), "
            "or correct the folder."
        )
    missing = missing_settings(settings, said.scheduler)
    if said.channels not in PICTURE_CHANNELS and settings.vae is None and not said.has_vae and (pictures or missing):
        missing["teacher.vae"] = (
            f"the folder or hub id of the autoencoder of its {said.channels} channels, such as "
            "stabilityai/sd-vae-ft-ema; pictures are drawn, and encoded, by it"
        )
    ask_for(settings, missing)


def missing_settings(settings: DiTSettings, scheduler: dict[str, Any] | None) -> dict[str, str]:
    """Keys that have to be set to call the network, and what each is."""
    missing, prediction = {}, settings.prediction or prediction_of(scheduler)
    if prediction is None:
        missing["teacher.prediction"] = (
            "what the network predicts: flow (noise - data, as REPA's), reversed-flow (data - noise, time running to "
            "data, as SiT's) or epsilon (as DiT's)"
        )
    if prediction != "epsilon" and settings.timestep_scale is None and "num_train_timesteps" not in (scheduler or {}):
        missing["teacher.timestep_scale"] = (
            "what time a flow network takes: 1 where it takes sigma, 1000 where it takes 1000 sigma"
        )
    return missing


def ask_for(settings: DiTSettings, missing: dict[str, str]) -> None:
    """Raise ModelError that asks for all that is missing, if anything is."""
    if missing:
        lines = "".join(f"\n  {key}: {words}" for key, words in missing.items())
        raise ModelError(
            f"nothing says all that {settings.source} needs to be a teacher. Set, in the preset or by --set KEY=VALUE:"
            + lines
        )


def _contradictions(settings: DiTSettings, said: Description) -> list[str]:
    """Where the settings say something else than the source."""
    found = []
    if settings.vae is not None and said.works_on_pixels:
        found.append(
            f"teacher.vae is {settings.vae}, and {settings.source} is a pipeline without {VAE}/, whose network takes "
            f"pixels ({said.channels} channel{'s' * (said.channels > 1)})"
        )
    if said.scheduler is None:
        return found
    says, where = prediction_of(said.scheduler), f"{settings.source}/{SCHEDULER}"
    steps = said.scheduler.get("num_train_timesteps")
    if settings.prediction not in (None, says):
        name = said.scheduler.get("_class_name")
        found.append(f"teacher.prediction is {settings.prediction}, and {where} ({name}) says {says}")
    elif says == "flow" and steps is not None and settings.timestep_scale not in (None, float(steps)):
        found.append(
            f"teacher.timestep_scale is {settings.timestep_scale:g}, and {where} says {steps} (num_train_timesteps)"
        )
    return found
