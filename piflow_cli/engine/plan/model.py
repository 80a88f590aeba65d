"""What a plan knows of a model, read off its config: parameters by kind, and the widths that its activations have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from piflow_cli.core import adapter as adapters
from piflow_cli.core.interfaces import Backbone
from piflow_cli.core.student import Student
from piflow_cli.errors import ModelError
from piflow_cli.io.hub import locate
from piflow_cli.io.weights import read_json
from piflow_cli.preset import Preset

LATENT_FACTOR = 8
"""Pixels along the side of a latent position, in the autoencoders of all families."""


@dataclass(frozen=True)
class Part:
    """A part of a pipeline beside its transformer."""

    name: str
    parameters: int
    is_encoder: bool
    known_from: str


PUBLISHED_PARTS: dict[str, tuple[Part, ...]] = {
    "flux": (
        Part("T5-XXL encoder", 4_762_310_656, True, "published"),
        Part("CLIP-L text encoder", 123_060_480, True, "published"),
        Part("autoencoder", 83_819_683, False, "published"),
    ),
    "qwen_image": (
        Part("Qwen2.5-VL", 8_292_166_656, True, "published"),
        Part("autoencoder", 126_892_531, False, "published"),
    ),
    "dit": (Part("autoencoder", 83_653_863, False, "published"),),
}
"""Text encoders and autoencoders by teacher family, for sources that are not on this machine."""


@dataclass(frozen=True)
class ModelFacts:
    """Counts and widths.

    Args:
        frozen: parameters of the teacher; with an adapter the student stands on the same ones.
        lora, lora_layers: parameters of the LoRA, and the layers that have one; 0 for a student trained in full.
        modules: what else trains in full beside an adapter, by name, and for other students the rest of the network.
        head: parameters of the policy head.
        width: D, of a token.
        hidden: of a block's MLP.
        lora_input: of the widest layer with LoRA; 0 without.
        blocks, block_parameters, outside: blocks, parameters of the largest one and of what is in none.
        positions, channels, policy_channels: latent positions a token holds, and channels of a position.
        text_width, pooled_width: of an embedded prompt; 0 for class labels.
        embeds_guidance: whether the network takes the guidance scale as an input.
        latent_size: latent side that the config names, for families whose settings give no size in pixels.
    """

    frozen: int
    lora: int
    lora_layers: int
    modules: dict[str, int]
    head: int
    width: int
    hidden: int
    lora_input: int
    blocks: int
    block_parameters: int
    outside: int
    positions: int
    channels: int
    policy_channels: int
    text_width: int
    pooled_width: int
    embeds_guidance: bool
    latent_size: int

    pixels = LATENT_FACTOR**2
    """A latent position stands for."""

    @property
    def trainable(self) -> int:
        """Parameters that train."""
        return self.lora + sum(self.modules.values()) + self.head


def model_facts(preset: Preset) -> ModelFacts:
    """The facts of a preset's model, from its config; the module is built on the meta device, once a process.

    Raises:
        ModelError: the config cannot be had, or the adapter names layers that are not there.
    """
    return _facts(preset.teacher, preset.policy, preset.adapter)


@lru_cache(maxsize=2)
def _described(teacher: Any) -> tuple[nn.Module, Backbone]:
    """The module on the meta device, to be read and not changed, and its backbone."""
    return teacher.describe()


@lru_cache(maxsize=8)
def _facts(teacher: Any, policy: Any, adapter: adapters.AdapterSettings | None) -> ModelFacts:
    module, backbone = _described(teacher) if adapter is not None else teacher.describe()
    frozen, config, width = count(module.parameters()), module.config, backbone.embed_dim(module)
    lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
    blocks = [block for child in lists for block in child]
    sizes, hidden = [count(block.parameters()) for block in blocks], max(_hidden(block) for block in blocks)
    outside = frozen - sum(count(child.parameters()) for child in lists)
    layers: list[nn.Linear] = []
    if adapter is None:
        student = Student(module, backbone=backbone, family=policy)
        head = count(student.head.parameters())
        modules = {"network": count(student.parameters()) - head}
    else:
        published = backbone.lora_targets(module)
        if not published and adapter.targets is None:
            raise ModelError("students of this teacher family are trained in full; leave the [adapter] table out")
        replaced = (*backbone.trained_modules, backbone.projection_name)
        chosen = adapters.chosen_targets(module, adapter, published, replaced=replaced)
        layers = [module.get_submodule(name) for name in chosen]
        modules = {name: count(module.get_submodule(name).parameters()) for name in backbone.trained_modules}
        built = policy.build_head(
            backbone.projection(module),
            latent_channels=backbone.latent_channels,
            embed_dim=width,
            layout=backbone.layout,
        )
        head = count(built.parameters())
    rank = adapter.rank if adapter else 0
    return ModelFacts(
        frozen=frozen,
        lora=sum(rank * (layer.in_features + layer.out_features) for layer in layers),
        lora_layers=len(layers),
        modules=modules,
        head=head,
        width=width,
        hidden=hidden,
        lora_input=max((layer.in_features for layer in layers), default=0),
        blocks=len(blocks),
        block_parameters=max(sizes),
        outside=outside,
        positions=backbone.layout.positions,
        channels=backbone.latent_channels,
        policy_channels=policy.output_channels(backbone.latent_channels),
        text_width=getattr(config, "joint_attention_dim", 0),
        pooled_width=getattr(config, "pooled_projection_dim", 0),
        embeds_guidance=bool(getattr(config, "guidance_embeds", False)),
        latent_size=getattr(config, "sample_size", 0),
    )


def _hidden(block: nn.Module) -> int:
    """Width inside the MLP of a block: the widest output that another of its layers takes in."""
    layers = [part for part in block.modules() if isinstance(part, nn.Linear)]
    widest_input = max(layer.in_features for layer in layers)
    return max(layer.out_features for layer in layers if layer.out_features <= widest_input)


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Numbers in some parameters; those of a module are each given once."""
    return sum(parameter.numel() for parameter in parameters)


def image_tokens(preset: Preset, facts: ModelFacts) -> int:
    """Image tokens of the largest picture that the preset trains on."""
    from piflow_cli.data.prompts import parse_resolution

    if not hasattr(preset.teacher, "width"):
        return facts.latent_size**2 // facts.positions
    sizes = [(preset.teacher.width, preset.teacher.height)]
    sizes = [parse_resolution(text) for text in getattr(preset.data, "resolutions", ())] or sizes
    return max(width * height for width, height in sizes) // (LATENT_FACTOR**2 * facts.positions)


def text_tokens(preset: Preset) -> int:
    """Text tokens at most; 0 for class labels."""
    return getattr(preset.teacher, "max_sequence_length", 0)


def pipeline_parts(preset: Preset) -> tuple[Part, ...]:
    """Text encoders and autoencoder: as the pipeline's folder describes them where it is here, else as published.

    Raises:
        ModelError: the source is neither here nor a hub id, and no architecture stands in for it.
    """
    folder = _local_folder(preset)
    if folder is not None and (folder / "model_index.json").is_file():
        index = read_json(folder / "model_index.json")
        named = {name: entry for name, entry in index.items() if name == "vae" or name.startswith("text_encoder")}
        return tuple(_local_part(folder, name, *entry) for name, entry in named.items() if entry[0])
    if preset.teacher.type == "dit" and preset.teacher.vae is None:
        return ()
    return PUBLISHED_PARTS.get(preset.teacher.type, ())


def _local_folder(preset: Preset) -> Path | None:
    if getattr(preset.teacher, "architecture", None) is not None and not Path(preset.teacher.source).exists():
        return None
    place = locate(preset.teacher.source)
    return place if isinstance(place, Path) and place.is_dir() else None


def _local_part(folder: Path, name: str, library: str, class_name: str) -> Part:
    """A part counted from its config, built on the meta device."""
    import importlib

    part_class = getattr(importlib.import_module(library), class_name)
    with torch.device("meta"):
        if library == "transformers":
            module = part_class(part_class.config_class.from_pretrained(folder / name))
        else:
            module = part_class.from_config(read_json(folder / name / "config.json"))
    return Part(
        name=f"{class_name} ({name})",
        parameters=count(module.parameters()),
        is_encoder=name != "vae",
        known_from="its config",
    )
