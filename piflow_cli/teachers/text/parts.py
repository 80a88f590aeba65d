"""Loading the parts of a diffusers text-to-image pipeline, from a folder, a hub id, or one file of its transformer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from piflow_cli.errors import MissingExtraError, ModelError
from piflow_cli.io.hub import locate, unreachable
from piflow_cli.io.weights import read_json
from piflow_cli.teachers.text.settings import Quantization, TextSettings

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

ENCODER_PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
INDEX, TRANSFORMER = "model_index.json", "transformer"
KEPT_IN_FULL = ("norm_out", "proj_out")
"""Modules that students replace; they are never quantised."""
SINGLE_FILES = (".safetensors", ".gguf", ".ckpt", ".pt")


def read_index(settings: TextSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's index and its transformer's config; of a hub id only these two files are fetched.

    Raises:
        ModelError: missing, unreachable, or a pipeline of another family.
    """
    index = read_json(_file(settings, INDEX))
    if index.get("_class_name") != settings.pipeline_class:
        raise ModelError(
            f"{settings.source} holds a {index.get('_class_name')}, not a {settings.pipeline_class}: it is a teacher "
            "of another family. Check teacher.type and teacher.source."
        )
    return index, read_json(_file(settings, f"{TRANSFORMER}/config.json"))


def read_encoder_configs(settings: TextSettings) -> list[dict[str, Any]]:
    """The configs of the pipeline's text encoders.

    Raises:
        ModelError: missing or unreachable.
    """
    index, _ = read_index(settings)
    names = [name for name in ENCODER_PARTS if name in index and name.startswith("text_encoder")]
    return [read_json(_file(settings, f"{name}/config.json")) for name in names]


def _file(settings: TextSettings, name: str) -> Path:
    source = locate(settings.source)
    if isinstance(source, Path):
        if source.is_file():
            raise ModelError(f"{settings.source} is a file; pass the pipeline's folder, and the file as transformer")
        return source / name
    from huggingface_hub import hf_hub_download

    try:
        local_only = settings.local_files_only
        return Path(hf_hub_download(source, name, revision=settings.revision, local_files_only=local_only))
    except Exception as error:  # hub, network and gating errors share no ground class
        raise unreachable(settings.source, error) from error


def load_pipeline_parts(
    settings: TextSettings, *, device: torch.device | str, dtype: torch.dtype, transformer: bool, encoders: bool
) -> DiffusionPipeline:
    """The pipeline in its own class, frozen, with the parts that are asked for; the others are None.

    Args:
        settings: the source and how to load it.
        device: of the transformer; the text encoders too, unless they are offloaded, and the autoencoder.
        dtype: of all weights that are not quantised.
        transformer, encoders: whether to load the transformer, and tokenizers with their text encoders.

    Raises:
        ModelError: a part is missing, unreachable or damaged.
        MissingExtraError: the quantisation's library is not installed.
    """
    import diffusers

    index, _ = read_index(settings)
    parts: dict[str, Any] = {}
    if not transformer:
        parts[TRANSFORMER] = None
    elif settings.transformer is not None or settings.quantization != "none":
        parts[TRANSFORMER] = _load_transformer(settings, dtype=dtype)
    if not encoders:
        parts |= {name: None for name in ENCODER_PARTS if name in index}
    options = _options(settings)
    if settings.device_map is not None:
        options["device_map"] = settings.device_map
    pipeline_class = getattr(diffusers, settings.pipeline_class)
    with _quietly(settings):
        pipeline = _guarded(
            settings, lambda: pipeline_class.from_pretrained(_place(settings), dtype=dtype, **options, **parts)
        )
    _freeze(pipeline, settings, device=device)
    return pipeline


@contextmanager
def _quietly(settings: TextSettings) -> Iterator[None]:
    """Without the loading bars of diffusers and transformers where nothing is downloaded; one a part says little."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    local = isinstance(locate(settings.source), Path)
    libraries = [lib for lib in (diffusers_logging, transformers_logging) if local and lib.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()


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


def _load_transformer(settings: TextSettings, *, dtype: torch.dtype) -> nn.Module:
    """The transformer from its own file or folder, or quantised while it loads."""
    import diffusers

    module_class = getattr(diffusers, settings.transformer_class)
    options = _options(settings) | {"dtype": dtype}
    own = settings.transformer
    if own is not None and own.endswith(SINGLE_FILES):
        path = Path(own).expanduser()
        if not path.is_file():
            raise ModelError(
                f"teacher.transformer {own!r} does not exist; pass a .safetensors or .gguf file, or a folder"
            )
        if path.suffix == ".gguf":
            _require("gguf", "gguf")
            options["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
        config = str(_file(settings, f"{TRANSFORMER}/config.json").parent)
        return _guarded(settings, lambda: module_class.from_single_file(str(path), config=config, **options))
    if settings.quantization != "none":
        options["quantization_config"] = _quantization_config(settings.quantization, dtype)
    place, subfolder = (str(locate(own)), None) if own is not None else (_place(settings), TRANSFORMER)
    return _guarded(settings, lambda: module_class.from_pretrained(place, subfolder=subfolder, **options))


def _quantization_config(name: Quantization, dtype: torch.dtype) -> Any:
    """diffusers' configuration of a quantisation; what students replace stays in full precision."""
    import diffusers

    skipped = list(KEPT_IN_FULL)
    if name.startswith("bnb"):
        _require("bitsandbytes", "bitsandbytes")
        four = name == "bnb-4bit"
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype} if four else {}
        return diffusers.BitsAndBytesConfig(load_in_8bit=not four, llm_int8_skip_modules=skipped, **options)
    _require("torchao", "torchao")
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    kind = Int8WeightOnlyConfig() if name == "torchao-int8" else Float8WeightOnlyConfig()
    return diffusers.TorchAoConfig(kind, modules_to_not_convert=skipped)


def _require(module: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingExtraError(f"this quantisation needs {module}: pip install 'piflow[{extra}]'")


def _place(settings: TextSettings) -> str:
    return str(locate(settings.source))


def _options(settings: TextSettings) -> dict[str, Any]:
    values = {"variant": settings.variant, "revision": settings.revision}
    return {key: value for key, value in values.items() if value is not None} | {
        "local_files_only": settings.local_files_only
    }


def _guarded(settings: TextSettings, load: Any) -> Any:
    """What `load` returns; its errors as one ModelError."""
    try:
        return load()
    except (ModelError, MissingExtraError):
        raise
    except Exception as error:  # hub, network, gating, damage and missing parts share no ground class
        if isinstance(locate(settings.source), str):
            raise unreachable(settings.source, error) from error
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise ModelError(f"{settings.source} cannot be loaded as a {settings.pipeline_class}: {reason}") from None


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """A transformer's config without what diffusers notes about files and versions."""
    return {key: value for key, value in config.items() if not key.startswith("_") and key != "quantization_config"}


def config_hash(config: dict[str, Any]) -> str:
    """SHA-256 of a plain config, as hexadecimal digits."""
    text = json.dumps(plain_config(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def config_differences(student: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Every key of the student's config that the base has otherwise, with both values."""
    student, base = plain_config(student), plain_config(base)
    keys = [key for key in student if key in base and _as_json(student[key]) != _as_json(base[key])]
    return [f"{key} is {student[key]!r} in the student, {base[key]!r} in the base" for key in keys]


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
