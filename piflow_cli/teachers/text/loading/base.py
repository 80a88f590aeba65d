"""Where the files of a base are, and whether they are all there, before any is loaded: by their names, part by part."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piflow_cli.errors import ModelError
from piflow_cli.io.bounds import check_config
from piflow_cli.io.hub import fetch_file, fetch_folder, list_files, locate
from piflow_cli.io.weights import find_weights, read_json
from piflow_cli.teachers.classes import check_entry, library_class
from piflow_cli.teachers.configs import check_kinds
from piflow_cli.teachers.text.loading.configs import check_transformer_config
from piflow_cli.teachers.text.settings import TextSettings

INDEX, TRANSFORMER, VAE = "model_index.json", "transformer", "vae"
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.model",))
"""Files that hold a tokenizer's vocabulary, any of these groups; without one a tokenizer knows no word."""
TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja")
"""Of the files beside weights that a part may need."""


@dataclass(frozen=True)
class BaseFiles:
    """A base on this machine.

    Args:
        folder: the pipeline's.
        variant: of its weights, None for files that name none.
        warnings: what a user should know of them.
    """

    folder: Path
    variant: str | None
    warnings: tuple[str, ...] = ()


def read_index(settings: TextSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's index and its transformer's config; of a hub id only these two files are fetched.

    Raises:
        ModelError: missing, unreachable, a pipeline of another family, or one whose parts are no library's.
    """
    path = base_file(settings, INDEX)
    index = read_json(path)
    if index.get("_class_name") not in settings.pipeline_classes:
        raise ModelError(
            f"{settings.source} holds a {index.get('_class_name')}, not a {settings.pipelines}: it is a teacher "
            "of another family. Check teacher.type and teacher.source."
        )
    settings.check_index(index)
    for part in settings.parts:
        if part in index and index[part] != [None, None]:
            check_entry(index[part], part=part, origin=path)
    config = _read_config(settings, TRANSFORMER)
    check_transformer_config(settings, config, origin=f"the transformer's config of {settings.source}")
    return index, config


def encoder_parts(settings: TextSettings) -> list[str]:
    """The parts that encode prompts, tokenizers and text encoders, as far as a pipeline can be made without them."""
    return [part for part in (*settings.tokenizers, *settings.encoders) if part not in settings.essential]


def read_encoder_configs(settings: TextSettings) -> list[dict[str, Any]]:
    """The configs of the pipeline's text encoders.

    Raises:
        ModelError: missing or unreachable.
    """
    read_index(settings)
    return [_read_config(settings, part) for part in settings.encoders]


def _read_config(settings: TextSettings, part: str) -> dict[str, Any]:
    path = base_file(settings, f"{part}/config.json")
    config = read_json(path)
    check_config(config, origin=path)
    return config


def base_file(settings: TextSettings, name: str) -> Path:
    """The local path of one file of a base; of a hub id it is fetched.

    Raises:
        ModelError: unreachable, or the source is a file.
    """
    source = locate(settings.source)
    if isinstance(source, str):
        return fetch_file(source, name, revision=settings.revision, local_only=settings.local_files_only)
    if source.is_file():
        raise ModelError(
            f"{settings.source} is one file, and the rest of a pipeline is needed too: pass the folder or hub id of a "
            f"{settings.pipelines}, and the file as teacher.transformer (teacher check: --set transformer=FILE)"
        )
    return source / name


def check_base_files(settings: TextSettings, wanted: Collection[str]) -> None:
    """Raise ModelError unless the base has every file that these parts need; of a hub id the names are looked at."""
    source = locate(settings.source)
    index, _ = read_index(settings)
    _check_parts(settings, _names(settings, source, wanted), index, wanted)


def find_base(settings: TextSettings, wanted: Collection[str]) -> BaseFiles:
    """The folder of a base with all files of the wanted parts, which are downloaded if need be.

    A base that exists only as a variant's files (fp16) is taken as that variant, and a warning says so.

    Raises:
        ModelError: a part is not there, or lacks files; all that is missing is named.
    """
    source = locate(settings.source)
    index, _ = read_index(settings)
    names = _names(settings, source, wanted)
    variant = _check_parts(settings, names, index, wanted)
    warnings = ()
    if variant != settings.variant:
        warnings = (
            f"{settings.source} has parts whose weights are there as variant {variant} only, and is loaded as that: "
            "they were rounded when they were written",
        )
    if isinstance(source, str):
        files = _needed(names, wanted, variant)
        source = fetch_folder(source, files, revision=settings.revision, local_only=settings.local_files_only)
    for part in wanted:
        if part in settings.encoders or part == VAE:
            path = source / part / "config.json"
            config = read_json(path)
            check_config(config, origin=path)
            if part == VAE:
                check_kinds(config, library_class(index[part], part=part, origin=source / INDEX), origin=path)
    return BaseFiles(folder=source, variant=variant, warnings=warnings)


def _names(settings: TextSettings, source: Path | str, wanted: Collection[str]) -> list[str]:
    """The files of the wanted parts, as part/name."""
    if isinstance(source, str):
        return list_files(source, known=INDEX, revision=settings.revision, local_only=settings.local_files_only)
    return [f"{part}/{path.name}" for part in wanted if (source / part).is_dir() for path in (source / part).iterdir()]


def _check_parts(
    settings: TextSettings, names: Sequence[str], index: dict[str, Any], wanted: Collection[str]
) -> str | None:
    """The variant that the weights are to be loaded as; ModelError names everything that is missing."""
    missing, variants = [], []
    for part in wanted:
        files = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        if index.get(part, [None, None]) == [None, None]:
            missing.append(f"{INDEX} names no {part}")
        elif not files:
            missing.append(f"there is no {part}")
        elif part in settings.tokenizers:
            if not any(set(group) <= set(files) for group in VOCABULARIES):
                missing.append(f"{part} has no vocabulary ({' or '.join(' + '.join(g) for g in VOCABULARIES)})")
        elif part == "scheduler":
            missing += ["scheduler has no scheduler_config.json"] * ("scheduler_config.json" not in files)
        else:
            found = find_weights(files, variant=settings.variant)
            missing += [f"{part} has no config.json"] * ("config.json" not in files)
            missing += [f"{part} has no weights"] * (found is None)
            missing += [f"{part} has no {name}" for name in (found.missing if found else ())]
            variants += [found.variant] if found is not None else []
    if missing:
        raise ModelError(
            f"{settings.source} is no whole {index['_class_name']}: {'; '.join(missing)}. Was its download cut off? "
            "Download it again, or pass a folder that has every part."
        )
    named = sorted({variant for variant in variants if variant is not None})
    if len(named) > 1 or (settings.variant is not None and variants and settings.variant not in named):
        asked = f"variant {settings.variant}" if settings.variant is not None else "one variant of all parts"
        raise ModelError(f"{settings.source} has no weights of {asked}; it has {' and '.join(named) or 'none'}")
    return named[0] if named else settings.variant


def _needed(names: Sequence[str], wanted: Collection[str], variant: str | None) -> list[str]:
    """Names of a repository's files that the wanted parts are loaded from, each weight once."""
    needed = [INDEX]
    for part in wanted:
        files = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        found = find_weights(files, variant=variant)
        weights = found.names if found is not None else ()
        needed += [f"{part}/{name}" for name in files if name in weights or name.endswith(TEXT_SUFFIXES)]
    return needed
