"""Loading the parts of a diffusers text-to-image pipeline, from a folder, a hub id, or one file of its transformer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from piflow_cli.errors import MissingExtraError, ModelError
from piflow_cli.io.hub import fetch_folder, list_files, locate
from piflow_cli.io.texts.names import user_path
from piflow_cli.io.weights import check_layers, check_values, find_weights, read_dtypes, read_json, without_bars
from piflow_cli.teachers.classes import holds_tokenizer, library_class
from piflow_cli.teachers.text.loading.base import (
    INDEX,
    TRANSFORMER,
    VAE,
    BaseFiles,
    base_file,
    encoder_parts,
    find_base,
    read_index,
)
from piflow_cli.teachers.text.loading.configs import build_transformer
from piflow_cli.teachers.text.loading.encoders import check_whole, load_tokenizer, load_whole
from piflow_cli.teachers.text.loading.float8 import UNSCALED
from piflow_cli.teachers.text.loading.processors import processor_of
from piflow_cli.teachers.text.loading.quantization import (
    needs_gpu,
    quantization_config,
    require,
    restore_projection,
)
from piflow_cli.teachers.text.loading.single_file import load_single_file
from piflow_cli.teachers.text.settings import TextSettings

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

PROCESSOR = "processor"
"""How the names of parts begin that hold a tokenizer beside something for pictures, as pipelines take them."""
MIN_WORDS = 16
"""Fewer words than any tokenizer has that was trained."""
OFFLINE: dict[str, Any] = {"local_files_only": True}
"""Every file is here once `find_base` has returned."""
NO_GPU = "No GPU found"
"""What diffusers says where bitsandbytes has no GPU."""
SINGLE_FILES = (".safetensors", ".gguf", ".ckpt", ".pt")


def load_pipeline_parts(
    settings: TextSettings,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    transformer: bool,
    encoders: bool,
    on_warning: Callable[[str], None] = warnings.warn,
) -> DiffusionPipeline:
    """The pipeline in its own class, frozen, with the parts that are asked for; the others are None.

    Args:
        settings: the source and how to load it.
        device: of the transformer; the text encoders too, unless they are offloaded, and the autoencoder.
        dtype: of all weights that are not quantised.
        transformer, encoders: whether to load the transformer, and tokenizers with their text encoders.
        on_warning: called with what a user should know of how it was loaded.

    Raises:
        ModelError: a part is missing, unreachable or damaged.
        MissingExtraError: the quantisation's library is not installed.
    """
    import diffusers

    index, _ = read_index(settings)
    own_transformer = settings.transformer is not None
    left_out = [] if encoders else encoder_parts(settings)
    left_out += [] if transformer and not own_transformer else [TRANSFORMER]
    wanted = [part for part in settings.parts if part not in left_out]
    base = find_base(settings, wanted)
    for part in wanted:
        library_class(index[part], part=part, origin=base.folder / INDEX)
    for warning in base.warnings:
        on_warning(warning)
    parts: dict[str, Any] = {
        name: None for name, entry in index.items() if isinstance(entry, list) and name not in wanted
    }
    if transformer and not own_transformer:
        check_names(settings, base.folder / TRANSFORMER, base.variant, on_warning=on_warning)
    if transformer and (own_transformer or settings.quantization != "none"):
        parts[TRANSFORMER] = _load_transformer(settings, base, device=device, dtype=dtype, on_warning=on_warning)
    options = OFFLINE | {"variant": base.variant}
    if settings.device_map is not None:
        options["device_map"] = settings.device_map
    pipeline_class = getattr(diffusers, index["_class_name"])
    with without_bars():
        inner = [part for part in wanted if part in settings.tokenizers and holds_tokenizer(index[part], part=part)]
        tokenizers = {part: _guarded(settings, partial(load_tokenizer, base.folder / part)) for part in inner}
        parts |= dict.fromkeys(tokenizers) | _processors(settings, base, index, wanted)
        for part in (name for name in wanted if name in (*settings.encoders, VAE)):
            parts |= _load_encoder(settings, base, part, index[part], dtype=dtype)
        pipeline = _guarded(
            settings, lambda: pipeline_class.from_pretrained(str(base.folder), dtype=dtype, **options, **parts)
        )
    pipeline.register_modules(**tokenizers)
    _check_loaded(pipeline, settings)
    _freeze(pipeline, settings, device=device)
    return pipeline


def _load_encoder(
    settings: TextSettings, base: BaseFiles, part: str, entry: Any, *, dtype: torch.dtype
) -> dict[str, Any]:
    """A text encoder or the autoencoder by its name, whole; nothing, once it is checked, where a map places it."""
    part_class = library_class(entry, part=part, origin=base.folder / INDEX)
    where = {"folder": base.folder / part, "variant": base.variant}
    if settings.device_map is not None:
        _guarded(settings, partial(check_whole, part_class, **where))
        return {}
    return {part: _guarded(settings, partial(load_whole, part_class, dtype=dtype, **where))}


def _processors(
    settings: TextSettings, base: BaseFiles, index: dict[str, Any], wanted: Collection[str]
) -> dict[str, Any]:
    """The processors among the parts that prepare prompts, by their names."""
    found = {part: base.folder / part for part in wanted if part in settings.tokenizers and part.startswith(PROCESSOR)}
    classes = {part: library_class(index[part], part=part, origin=base.folder / INDEX) for part in found}
    sees = {"pictures": settings.num_pictures[1] > 0}
    return {
        part: _guarded(settings, partial(processor_of, classes[part], place, **sees)) for part, place in found.items()
    }


def _check_loaded(pipeline: DiffusionPipeline, settings: TextSettings) -> None:
    """Raise ModelError for weights that are not finite or were in no file, and for tokenizers that know no word."""
    for name, part in pipeline.components.items():
        source = f"{settings.source} ({name})"
        if isinstance(part, torch.nn.Module):
            lacking = [key for key, parameter in part.named_parameters() if parameter.is_meta]
            if lacking and settings.device_map is None:
                raise ModelError(f"the weights of {source} lack {', '.join(lacking[:4])}; download it again")
            plain = {key: p for key, p in part.named_parameters() if type(p.data) is torch.Tensor}
            check_values({key: p for key, p in plain.items() if p.is_floating_point()}, source=source)
        elif name in settings.tokenizers and part is not None:
            tokenizer = getattr(part, "tokenizer", part)  # a processor's own
            words = tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys()
            if len(words) < MIN_WORDS:
                raise ModelError(
                    f"the tokenizer {source} has a vocabulary of {len(words)} words, so that every prompt would be the "
                    "same to it; download it again"
                )


def _freeze(pipeline: DiffusionPipeline, settings: TextSettings, *, device: torch.device | str) -> None:
    """Every module in eval mode, without gradient, and where it belongs."""
    for name, part in pipeline.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        part.requires_grad_(False).eval()
        placed = settings.device_map is not None or (name == TRANSFORMER and settings.quantization.startswith("bnb"))
        if placed or (settings.offload_encoders and name != TRANSFORMER):
            continue
        part.to(device)
    pipeline.set_progress_bar_config(disable=True)


def _load_transformer(
    settings: TextSettings,
    base: BaseFiles,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    on_warning: Callable[[str], None],
) -> nn.Module:
    """The transformer from its own file or folder, or quantised while it loads."""
    import diffusers

    own = settings.transformer
    if own is not None and own.endswith(SINGLE_FILES):
        return _load_file(settings, user_path(own), dtype=dtype, on_warning=on_warning)
    module_class = getattr(diffusers, settings.transformer_class)
    options: dict[str, Any] = OFFLINE | {"dtype": dtype}
    if settings.quantization != "none":
        options["quantization_config"] = quantization_config(settings, dtype)
    on_device = settings.quantization.startswith("bnb")  # it quantises where the weights are to stay
    if on_device:
        options["device_map"] = {"": str(device)}
    if own is None:
        place, subfolder = base.folder, TRANSFORMER
        options["variant"] = base.variant
    else:
        found = locate(own)
        place = found if isinstance(found, Path) else _fetch_transformer(found, settings)
        subfolder = TRANSFORMER if not (place / "config.json").is_file() else None
        options["variant"] = settings.variant
        check_names(settings, place / (subfolder or ""), settings.variant, on_warning=on_warning)
    module = _guarded(settings, lambda: module_class.from_pretrained(str(place), subfolder=subfolder, **options))
    if on_device:
        name = settings.backbone_class.projection_name
        restore_projection(module, name, place / (subfolder or ""), dtype=dtype)
    return module


def _fetch_transformer(repository: str, settings: TextSettings) -> Path:
    """The local folder of a repository with its transformer, at the top or a pipeline's part; it alone is fetched."""
    names = list_files(repository, known="config.json", local_only=settings.local_files_only)
    inside = "" if "config.json" in names else f"{TRANSFORMER}/"
    files = [name.removeprefix(inside) for name in names if name.startswith(inside)]
    weights = find_weights(files, variant=settings.variant)
    if weights is None:
        raise ModelError(f"{repository} holds no transformer's weights; pass a folder, a file or a hub id that does")
    wanted = [name for name in files if name in weights.names or ("/" not in name and name.endswith(".json"))]
    return fetch_folder(repository, [inside + name for name in wanted], local_only=settings.local_files_only)


def check_names(
    settings: TextSettings, folder: Path, variant: str | None, *, on_warning: Callable[[str], None]
) -> None:
    """Raise ModelError unless a folder's safetensors hold what its config asks for, which the library only logs.

    Quantised folders have names of their own, and pickles are not opened: of these nothing is said.
    """
    config = read_json(folder / "config.json")
    found = find_weights([path.name for path in folder.iterdir()], variant=variant)
    files = [folder / name for name in (found.names if found is not None else ()) if name.endswith(".safetensors")]
    if not files or "quantization_config" in config:
        return
    dtypes = {name: dtype for file in files for name, dtype in read_dtypes(file).items()}
    check_layers(config, dtypes.keys(), source=folder)
    expected = build_transformer(settings, config).state_dict().keys()
    problems = [f"missing {name}" for name in expected if name not in dtypes]
    problems += [f"unknown {name}" for name in dtypes if name not in expected]
    if problems:
        raise ModelError(f"the weights in {folder} do not fit their config: {'; '.join(problems[:4])}")
    cast = [name for name, dtype in dtypes.items() if dtype.startswith("F8")]
    if cast:
        on_warning(f"{folder} {UNSCALED.format(count=len(cast), first=cast[0])}")


def _load_file(
    settings: TextSettings, path: Path, *, dtype: torch.dtype, on_warning: Callable[[str], None]
) -> nn.Module:
    """The transformer of one file; GGUF is read, and kept quantised, by diffusers."""
    import diffusers

    if not path.is_file():
        raise ModelError(f"teacher.transformer {path} does not exist; pass a .safetensors or .gguf file, or a folder")
    if settings.quantization != "none":
        raise ModelError(
            f"quantization {settings.quantization} is for transformers in folders; {path.name} is one file, which is "
            "loaded as it is. Leave quantization out, or pass a folder."
        )
    config = base_file(settings, f"{TRANSFORMER}/config.json")
    if path.suffix == ".gguf":
        require("gguf", "gguf")
        options = {"quantization_config": diffusers.GGUFQuantizationConfig(compute_dtype=dtype), "dtype": dtype}
        module_class = getattr(diffusers, settings.transformer_class)
        return _guarded(
            settings, lambda: module_class.from_single_file(str(path), config=str(config.parent), **options)
        )
    description = read_json(config)
    module, notes = load_single_file(build_transformer(settings, description), path, config=description, dtype=dtype)
    for note in notes:
        on_warning(note)
    return module


def _guarded(settings: TextSettings, load: Any) -> Any:
    """What `load` returns; its errors as one ModelError."""
    try:
        return load()
    except (ModelError, MissingExtraError):
        raise
    except RuntimeError as error:
        if NO_GPU not in str(error):
            raise _unloadable(settings, error) from None
        raise needs_gpu(settings.quantization) from None
    except Exception as error:  # damage and missing weights share no ground class
        raise _unloadable(settings, error) from None


def _unloadable(settings: TextSettings, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    return ModelError(f"{settings.source} cannot be loaded as a {settings.pipelines}: {reason}")
