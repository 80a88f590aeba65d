"""Reading a DiT's config and weights from a diffusers folder, a hub id or a released weight file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from piflow_cli.errors import ModelError
from piflow_cli.io.tensors.digests import digest_models, fingerprint
from piflow_cli.io.tensors.slices import SlicedWeights
from piflow_cli.io.weights import (
    check_layers,
    check_shapes,
    check_values,
    find_weights,
    read_json,
    read_weights,
)
from piflow_cli.teachers.configs import built_of
from piflow_cli.teachers.dit.config import FREQ_SHIFT, to_diffusers
from piflow_cli.teachers.dit.loading import embedding
from piflow_cli.teachers.dit.loading.autoencoder import WEIGHT_FILES, find_vae, load_vae
from piflow_cli.teachers.dit.loading.original import REVERSED, HeldWeights, as_flow, from_original, is_original
from piflow_cli.teachers.dit.loading.source import (
    CONFIG_FILES,
    VAE,
    Description,
    check,
    describe,
    fetch,
    transformer_folder,
    weights_here,
)

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


@dataclass
class Parts:
    """What a source holds: the module, what the source says of it, and the autoencoder.

    Args:
        warnings: what a user should know of them.
    """

    module: nn.Module
    said: Description
    vae: AutoencoderKL | None
    warnings: tuple[str, ...] = ()


def build(config: dict[str, Any], *, device: str = "cpu") -> nn.Module:
    """A DiTTransformer2DModel of a config, which never drops labels.

    Its blocks share one embedding unless the config says otherwise. Parameters are uninitialised; on "meta" they take
    no memory, while the position table always exists.

    Raises:
        ModelError: its values do not fit together.
    """
    from accelerate import init_empty_weights
    from diffusers import DiTTransformer2DModel

    with built_of(config, origin="the config of this DiT"), init_empty_weights(include_buffers=False):
        module = DiTTransformer2DModel(**{key: config[key] for key in CONFIG_KEYS if key in config})
    if not config.get(embedding.PER_BLOCK):
        embedding.share(module)
    embedding.set_up(module, freq_shift=config.get(FREQ_SHIFT, 1))
    return module if device == "meta" else _materialise(module, device)


def _materialise(module: nn.Module, device: str) -> nn.Module:
    """Give meta parameters storage, keeping the buffers."""
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.is_meta:
                setattr(owner, name, nn.Parameter(torch.empty_like(parameter, device=device)))
    return module.to(device)


def load(settings: DiTSettings, *, dtype: torch.dtype) -> Parts:
    """Load everything a teacher needs onto the CPU."""
    said = _described(settings)
    weights = _read_module_weights(settings, said)
    check_layers(said.config, list(weights), source=settings.source)
    check_values(weights, source=settings.source)
    said = with_embeddings(said, weights, weights.__getitem__)
    module = build(said.config, device="meta")
    load_weights(module, weights, source=settings.source, dtype=dtype)
    return Parts(module, said, *_find_vae(settings, said, dtype))


def outline(settings: DiTSettings, *, dtype: torch.dtype) -> tuple[Parts, SlicedWeights]:
    """What `load` gives with the module on the meta device, and the files that its weights are in."""
    said = _described(settings)
    files = _sliced(settings, said, _weight_paths(settings))
    said = with_embeddings(said, files.names(), files.read)
    vae, warnings = _find_vae(settings, said, dtype)
    module = build(said.config, device="meta")
    for parameter in module.parameters():  # the position table stays in float32
        parameter.data = parameter.data.to(dtype)
    return Parts(module, said, vae, warnings), files


def planned(settings: DiTSettings) -> Description:
    """What the source says, and of weights that are on this machine whether their blocks share an embedding.

    Raises:
        ModelError: as `describe`.
    """
    said = describe(settings)
    try:
        paths = weights_here(settings)
        files = _sliced(settings, said, paths) if paths else None
    except ModelError:  # damaged weights are for `load` to refuse
        files = None
    return said if files is None else with_embeddings(said, files.names(), files.read)


def _described(settings: DiTSettings) -> Description:
    """What the source says, once nothing is missing that takes to call the network."""
    said = describe(settings)
    check(settings, said, pictures=False)
    return said


def _sliced(settings: DiTSettings, said: Description, paths: Sequence[Path]) -> SlicedWeights:
    """The tensors of files by diffusers' names; in memory where the files hold other ones."""
    files = SlicedWeights(paths, rename=lambda name: next(iter(to_diffusers({name: None}))))
    as_stored = any("." in name for name in files.names()) and not is_original(files.names())  # not wrapped in a table
    if as_stored and settings.prediction != REVERSED:
        return files
    files.close()
    return HeldWeights(paths, _converted(settings, said, paths))


def with_embeddings(said: Description, names: Collection[str], read: Callable[[str], Tensor]) -> Description:
    """A description that says too whether blocks have embeddings of their own, by the weights."""
    if not embedding.differ(names, read):
        return said
    return replace(said, config=said.config | {embedding.PER_BLOCK: True})


def load_weights(module: nn.Module, weights: dict[str, Tensor], *, source: object, dtype: torch.dtype) -> None:
    """Put weights by diffusers' names into a module built on any device, an embedding that blocks share once.

    Raises:
        ModelError: names or shapes differ.
    """
    unused = embedding.copies(module, weights) | {"pos_embed.pos_embed"}
    weights = {name: tensor for name, tensor in weights.items() if name not in unused}
    check_shapes(weights, dict(module.named_parameters()), source=source)
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    module.load_state_dict(weights, strict=False, assign=True)


def _read_module_weights(settings: DiTSettings, said: Description) -> dict[str, Tensor]:
    """All weights of the module by diffusers' names, from one file or several."""
    return _converted(settings, said, _weight_paths(settings))


def _converted(settings: DiTSettings, said: Description, paths: Sequence[Path]) -> dict[str, Tensor]:
    """The weights of files by diffusers' names, as of a network that takes sigma and gives noise - data if a flow."""
    weights = {name: tensor for path in paths for name, tensor in read_weights(path).items()}
    weights = from_original(weights, source=settings.source) if is_original(weights) else to_diffusers(weights)
    if settings.prediction != REVERSED:
        return weights
    scale, shift = settings.timestep_scale, said.config[FREQ_SHIFT]
    return as_flow(weights, timestep_scale=1.0 if scale is None else scale, freq_shift=shift)


def _weight_paths(settings: DiTSettings) -> list[Path]:
    """The module's weight files; pickled ones only where there are no others."""
    for pattern in WEIGHT_FILES:
        source = fetch(settings, (*CONFIG_FILES, pattern, f"transformer/{pattern}"))
        if source.is_file():
            return [source]
        folder = transformer_folder(source)
        found = find_weights([path.name for path in folder.iterdir()])
        if found is not None and found.missing:
            raise ModelError(
                f"{folder} lacks {', '.join(found.missing[:4])}: its download was cut off; download it again"
            )
        if found is not None:
            return [folder / file for file in found.names]
    raise ModelError(f"{settings.source} has no weights ({' or '.join(WEIGHT_FILES)})")


def load_vae_alone(
    settings: DiTSettings, *, dtype: torch.dtype
) -> tuple[Description, AutoencoderKL | None, tuple[str, ...]]:
    """What the source says, the autoencoder if there is one, and what a user should know of it."""
    said = describe(settings)
    return said, *_find_vae(settings, said, dtype)


def autoencoder_fingerprint(settings: DiTSettings, *, kind: str) -> str:
    """What decides the latents of a picture; without an autoencoder the pixels are the latents."""
    folder, _ = _vae_folder(settings, describe(settings))
    if folder is None:
        return fingerprint(kind, ["pixels"], None)
    config = {key: value for key, value in read_json(folder / "config.json").items() if not key.startswith("_")}
    return fingerprint(kind, [config], digest_models([folder]))


def _vae_folder(settings: DiTSettings, said: Description) -> tuple[Path | None, str]:
    """Where the autoencoder is, None where there is none, and its name for messages: the source's own comes first."""
    if said.has_vae:
        return find_vae(settings.source, revision=settings.revision, part=VAE), f"{settings.source}/{VAE}"
    return (None, "") if settings.vae is None else (find_vae(settings.vae), settings.vae)


def _find_vae(
    settings: DiTSettings, said: Description, dtype: torch.dtype
) -> tuple[AutoencoderKL | None, tuple[str, ...]]:
    """The autoencoder, None where there is none, and what there is to know of it.

    Raises:
        ModelError: it cannot be read, or has latents of other channels than the network.
    """
    folder, name = _vae_folder(settings, said)
    if folder is None:
        return None, ()
    vae = load_vae(folder, dtype=dtype)
    if vae.config.latent_channels != said.channels:
        raise ModelError(
            f"the autoencoder {name} has latents of {vae.config.latent_channels} channels, and the network of "
            f"{settings.source} takes {said.channels}; name the one that it was trained with in teacher.vae"
        )
    note = f"teacher.vae {settings.vae} is not used: {settings.source} holds an autoencoder of its own"
    return vae, (note,) if said.has_vae and settings.vae is not None else ()


def student_vae(settings: DiTSettings, folder: Path | None) -> AutoencoderKL | None:
    """The autoencoder inside a student's folder, else the one that the teacher's settings name, else None."""
    if folder is not None and (folder / "vae").is_dir():
        return load_vae(folder / "vae")
    return load_vae(find_vae(settings.vae)) if settings.vae is not None else None
