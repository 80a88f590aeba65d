"""What a plan knows of a model, read off its config: parameters by kind, and the widths that its activations have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

from piflow_cli.core import adapter as adapters
from piflow_cli.core.interfaces import Backbone, Conditioning
from piflow_cli.core.student import Student
from piflow_cli.errors import ModelError
from piflow_cli.preset import Preset

MLP_WIDTHS = 4
"""D-wide values that an MLP is wide inside, in the models that activations were counted on."""


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
        fused: of what a layer gives in one with its MLP's output, beyond `MLP_WIDTHS`: the other half of a gate, and
            query, key and value.
        lora_input: of the widest layer with LoRA; 0 without.
        largest_layer: weights of the largest linear layer.
        blocks, block_parameters: blocks, and parameters of the largest one.
        positions, channels, policy_channels: latent positions a token holds, and channels of a position.
        image_tokens: of the largest picture or video that is trained on.
        references, reference_tokens: reference pictures of a prompt, and their tokens.
        pixels: that a latent position stands for.
        condition: what the network takes beside the latents.
    """

    frozen: int
    lora: int
    lora_layers: int
    modules: dict[str, int]
    head: int
    width: int
    hidden: int
    fused: int
    lora_input: int
    largest_layer: int
    blocks: int
    block_parameters: int
    positions: int
    channels: int
    policy_channels: int
    image_tokens: int
    references: int
    reference_tokens: int
    pixels: int
    condition: Conditioning

    @property
    def trainable(self) -> int:
        """Parameters that train."""
        return self.lora + sum(self.modules.values()) + self.head


def model_facts(preset: Preset) -> ModelFacts:
    """The facts of a preset's model, from its config; the module is built on the meta device, once a process.

    Raises:
        ModelError: the config cannot be had, or the adapter names layers that are not there.
    """
    return _facts(preset.teacher, preset.policy, preset.adapter, preset.data.sizes_px, preset.data.references_px)


def described(preset: Preset) -> tuple[nn.Module, Backbone]:
    """The teacher's module on the meta device, to be read and not changed, and its backbone."""
    return _described(preset.teacher)


@lru_cache(maxsize=2)
def _described(teacher: Any) -> tuple[nn.Module, Backbone]:
    """The module on the meta device, to be read and not changed, and its backbone."""
    return teacher.describe()


@lru_cache(maxsize=8)
def _facts(
    teacher: Any,
    policy: Any,
    adapter: adapters.AdapterSettings | None,
    sizes_px: tuple[tuple[int, int], ...],
    references_px: tuple[tuple[int, int] | None, ...],
) -> ModelFacts:
    module, backbone = _described(teacher) if adapter is not None else teacher.describe()
    frozen, width = count(module.parameters()), backbone.embed_dim(module)
    pictures = [teacher.latent_size(module, size) for size in sizes_px or (None,)]
    lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
    blocks = [block for child in lists for block in child]
    sizes, hidden = [count(block.parameters()) for block in blocks], max(_hidden(block) for block in blocks)
    published = backbone.lora_targets(module)
    widest = max((module.get_submodule(name).out_features for name in published), default=0)
    layers: list[nn.Linear] = []
    if adapter is None:
        student = Student(module, backbone=backbone, family=policy)
        head = count(student.head.parameters())
        modules = {"network": count(student.parameters()) - head}
    else:
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
        hidden=max(hidden, min(widest, MLP_WIDTHS * width)),
        fused=max(0, widest - MLP_WIDTHS * width),
        lora_input=max((layer.in_features for layer in layers), default=0),
        largest_layer=max(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear)),
        blocks=len(blocks),
        block_parameters=max(sizes),
        positions=backbone.layout.positions,
        channels=backbone.latent_channels,
        policy_channels=policy.output_channels(backbone.latent_channels),
        image_tokens=max(map(math.prod, pictures)) // backbone.layout.positions,
        references=len(references_px),
        reference_tokens=_reference_tokens(teacher, module, references_px),
        pixels=teacher.latent_factor() ** 2,
        condition=teacher.conditioning(module),
    )


def _reference_tokens(teacher: Any, module: nn.Module, references_px: tuple[tuple[int, int] | None, ...]) -> int:
    """Of the reference pictures of a prompt."""
    if not references_px:
        return 0
    return teacher.dummy_condition(module, 1, references_px=references_px).references.tokens.shape[1]


def _hidden(block: nn.Module) -> int:
    """Width inside the MLP of a block: the widest output that another of its layers takes in."""
    layers = [part for part in block.modules() if isinstance(part, nn.Linear)]
    widest_input = max(layer.in_features for layer in layers)
    return max(layer.out_features for layer in layers if layer.out_features <= widest_input)


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Numbers in some parameters; those of a module are each given once."""
    return sum(parameter.numel() for parameter in parameters)
