"""Reading a DiT's config and weights from a diffusers folder, a hub id or a released weight file.

diffusers holds a copy of the time and class embedding in every block. Here the copies are one module, so that weights,
gradients and memory exist once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from piflow_cli.errors import ModelError
from piflow_cli.io.hub import fetch_folder, locate
from piflow_cli.io.weights import (
    SlicedWeights,
    check_layers,
    check_shapes,
    check_values,
    find_weights,
    read_json,
    read_weights,
)
from piflow_cli.teachers.dit.autoencoder import WEIGHT_FILES, find_vae, load_vae
from piflow_cli.teachers.dit.config import FREQ_SHIFT, SHARED, checked_config, infer_config, to_diffusers

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from piflow_cli.teachers.dit.settings import DiTSettings

CONFIG_KEYS = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "num_layers",
    "dropout",
    "norm_num_groups",
    "attention_bias",
    "sample_size",
    "patch_size",
    "activation_fn",
    "num_embeds_ada_norm",
    "upcast_attention",
    "norm_type",
    "norm_elementwise_affine",
    "norm_eps",
)
"""What a DiTTransformer2DModel is built from; other keys of a config are kept but not passed on."""
CONFIG_FILES = ("*.json",)
"""What describes a model in a hub repository, in folders of any depth."""


@dataclass
class Parts:
    """What a source holds: the module and its config, the scheduler's config, class names and the autoencoder."""

    module: nn.Module
    config: dict[str, Any]
    scheduler: dict[str, Any] | None
    labels: dict[int, str] | None
    vae: AutoencoderKL | None


def build(config: dict[str, Any], *, device: str = "cpu") -> nn.Module:
    """A DiTTransformer2DModel of a config, its embedding shared between blocks and never dropping labels.

    Parameters are uninitialised; on "meta" they take no memory, while the position table always exists.
    """
    from accelerate import init_empty_weights
    from diffusers import DiTTransformer2DModel

    with init_empty_weights(include_buffers=False):
        module = DiTTransformer2DModel(**{key: config[key] for key in CONFIG_KEYS if key in config})
    share_embedding(module)
    module.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = config.get(FREQ_SHIFT, 1)
    return module if device == "meta" else _materialise(module, device)


def share_embedding(module: nn.Module) -> None:
    """Make every block use the first block's time and class embedding; dropping labels is the trainer's business."""
    embedding = module.transformer_blocks[0].norm1.emb
    embedding.class_embedder.dropout_prob = 0.0
    for block in module.transformer_blocks[1:]:
        block.norm1.emb = embedding


def _materialise(module: nn.Module, device: str) -> nn.Module:
    """Give meta parameters storage, keeping the buffers."""
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.is_meta:
                setattr(owner, name, nn.Parameter(torch.empty_like(parameter, device=device)))
    share_embedding(module)
    return module.to(device)


def load(settings: DiTSettings, *, dtype: torch.dtype) -> Parts:
    """Load everything a teacher needs onto the CPU."""
    config, scheduler, labels = read_config(settings)
    weights = _read_module_weights(settings)
    check_layers(config, list(weights), source=settings.source)
    check_values(weights, source=settings.source)
    module = build(config, device="meta")
    load_weights(module, to_diffusers(weights), source=settings.source, dtype=dtype)
    vae = _find_vae(settings, dtype)
    return Parts(module=module, config=config, scheduler=scheduler, labels=labels, vae=vae)


def outline(settings: DiTSettings, *, dtype: torch.dtype) -> tuple[Parts, SlicedWeights]:
    """What `load` gives with the module on the meta device, and the files that its weights are in."""
    config, scheduler, labels = read_config(settings)
    files = SlicedWeights(_weight_paths(settings), rename=lambda name: next(iter(to_diffusers({name: None}))))
    vae = _find_vae(settings, dtype)
    module = build(config, device="meta")
    for parameter in module.parameters():  # the position table stays in float32
        parameter.data = parameter.data.to(dtype)
    return Parts(module=module, config=config, scheduler=scheduler, labels=labels, vae=vae), files


def load_weights(module: nn.Module, weights: dict[str, Tensor], *, source: object, dtype: torch.dtype) -> None:
    """Put weights, named as the module's own parameters (each once), into a module built on any device.

    Raises:
        ModelError: names or shapes differ.
    """
    expected = dict(module.named_parameters())
    tied = {name for name in weights if ".norm1.emb." in name and not name.startswith(SHARED)}
    for name in tied:
        first = SHARED + name.split(".norm1.emb.", 1)[1]
        if first in weights and not torch.equal(weights[first], weights[name]):
            raise ModelError(f"{source} has different embeddings in its blocks ({name}); a DiT shares one")
    weights = {name: tensor for name, tensor in weights.items() if name not in tied and name != "pos_embed.pos_embed"}
    check_shapes(weights, expected, source=source)
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    module.load_state_dict(weights, strict=False, assign=True)
    share_embedding(module)


def read_config(settings: DiTSettings) -> tuple[dict[str, Any], dict[str, Any] | None, dict[int, str] | None]:
    """The module's config, its scheduler's config and the class names, without reading weights where configs say it.

    Raises:
        ModelError: the source is missing, unreachable, or of another family.
    """
    source = _fetch(settings, CONFIG_FILES)
    if source.is_file():
        beside = source.with_name("config.json")
        config = read_json(beside) if beside.exists() else infer_config(settings, read_weights(source))
        return checked_config(config, settings.source), None, None
    index = read_json(source / "model_index.json") if (source / "model_index.json").exists() else {}
    config = checked_config(read_json(_transformer(source) / "config.json"), settings.source)
    path = source / "scheduler" / "scheduler_config.json"
    return config, read_json(path) if path.exists() else None, _labels(index)


def _fetch(settings: DiTSettings, files: Sequence[str]) -> Path:
    """The source's folder or file; of a hub id those files are downloaded that match, or found where they were before.

    Raises:
        ModelError: it is missing or unreachable.
    """
    source = locate(settings.source)
    if isinstance(source, Path):
        return source
    return fetch_folder(source, files, revision=settings.revision)


def _transformer(folder: Path) -> Path:
    """Where the module is: inside a pipeline's folder, or the folder itself."""
    return folder / "transformer" if (folder / "transformer").is_dir() else folder


def _labels(index: dict[str, Any]) -> dict[int, str] | None:
    labels = index.get("id2label")
    try:
        return {int(i): str(name) for i, name in labels.items()} if labels else None
    except (AttributeError, ValueError):
        raise ModelError(f"id2label of model_index.json is no table of names by class: {str(labels)[:100]}") from None


def _read_module_weights(settings: DiTSettings) -> dict[str, Tensor]:
    """All weights of the module, from one file or several."""
    return {name: tensor for path in _weight_paths(settings) for name, tensor in read_weights(path).items()}


def _weight_paths(settings: DiTSettings) -> list[Path]:
    """The module's weight files; pickled ones only where there are no others."""
    for pattern in WEIGHT_FILES:
        source = _fetch(settings, (*CONFIG_FILES, pattern, f"transformer/{pattern}"))
        if source.is_file():
            return [source]
        folder = _transformer(source)
        found = find_weights([path.name for path in folder.iterdir()])
        if found is not None and found.missing:
            raise ModelError(
                f"{folder} lacks {', '.join(found.missing[:4])}: its download was cut off; download it again"
            )
        if found is not None:
            return [folder / file for file in found.names]
    raise ModelError(f"{settings.source} has no weights ({' or '.join(WEIGHT_FILES)})")


def _find_vae(settings: DiTSettings, dtype: torch.dtype) -> AutoencoderKL | None:
    """The autoencoder that the settings name, else the source's own, else None."""
    if settings.vae is not None:
        return load_vae(find_vae(settings.vae), dtype=dtype)
    folder = _fetch(settings, CONFIG_FILES) / "vae"
    if not (folder / "config.json").exists():
        return None
    return load_vae(find_vae(settings.source, revision=settings.revision, part="vae"), dtype=dtype)


def student_vae(settings: DiTSettings, folder: Path | None) -> AutoencoderKL | None:
    """The autoencoder inside a student's folder, else the one that the teacher's settings name, else None."""
    if folder is not None and (folder / "vae").is_dir():
        return load_vae(folder / "vae")
    return load_vae(find_vae(settings.vae)) if settings.vae is not None else None
