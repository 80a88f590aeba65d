"""Students by the names, config and metadata of the authors' published files; what lies in which file is a format's.

Source: the authors' public implementation of pi-Flow (LakonLab) and its released weights.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from piflow_cli.core.interfaces import Backbone, PolicyFamily
from piflow_cli.errors import ModelError
from piflow_cli.formats.released.heads import HEADS, HeadLayout
from piflow_cli.formats.student import StoredStudent, StudentCard

CONFIG, WEIGHTS, VAE = "config.json", "diffusion_pytorch_model.safetensors", "vae"
INDEX = f"{WEIGHTS}.index.json"
POLICY_KEY, CARD_KEY = "policy_config", "piflow_card"
PREFIX = "transformer."
"""Names may carry it."""
STEPS = re.compile(r"(?<![0-9A-Za-z.])(\d+)[-_ ]?steps?(?![0-9A-Za-z])", re.IGNORECASE)
"""The word in a published student's name that tells its NFE, such as 4step."""
NUMBERED = re.compile(r"\d[-_ ]?step", re.IGNORECASE)
"""What looks like such a word, whatever stands around it."""
TYPICAL_NAMES = ("proj_out_means.", "emb.")
"""Starts of names that only released files have."""


@dataclass(frozen=True)
class Layout:
    """How the files name the students of one teacher family.

    Args:
        class_names: `_class_name` of the config, by policy, as it is written.
        projection: name of the teacher's final projection.
        aliases: other names that are read, by policy.
        presets: what the published students were trained by, by policy and NFE.
        marks: parts of names; adapters of the family have one of them, and no other's has any. Empty for families
            without adapters.
        extra: keys of the config beyond the teacher's and the head's, by policy.
        foreign: the teacher's keys that the authors' class does not take, by policy.
    """

    class_names: dict[str, str]
    projection: str
    aliases: dict[str, str] = field(default_factory=dict)
    presets: dict[str, dict[int, str]] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)
    foreign: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def policy_of(self, class_name: str | None) -> str | None:
        """The policy behind a `_class_name`, None where it is not one of this layout's."""
        named = {name: policy for policy, name in (*self.class_names.items(), *self.aliases.items())}
        return named.get(class_name) if isinstance(class_name, str) else None  # a file may say anything

    def usual_preset(self, policy: str | None, path: Path) -> str | None:
        """The preset that published students of a policy were trained by, as the name tells their NFE.

        That of the fewest evaluations where the name tells none (`tells_no_steps`, to be warned of); None where it
        tells another number than the published ones, or several.
        """
        known = self.presets.get(policy, {})
        if tells_no_steps(path):
            return known[min(known)] if known else None
        told = {int(number) for number in STEPS.findall(_name_of(path))}
        return known.get(next(iter(told))) if len(told) == 1 else None


def tells_no_steps(path: Path) -> bool:
    """Whether nothing in the name of a released file or folder looks like a number of evaluations."""
    return NUMBERED.search(_name_of(path)) is None


def _name_of(path: Path) -> str:
    return path.parent.name if path.name == WEIGHTS else path.name


def ask_for_preset(path: Path) -> ModelError:
    """The error for files that do not say how they were made, with the recipes that published ones were made by."""
    known = [f"{preset} ({nfe}step)" for layout in LAYOUTS.values() for nfe, preset in _recipes(layout)]
    return ModelError(
        f"{path} does not say how it was made (its NFE, shift and teacher), and its name does not tell which published "
        f"recipe it is of: {', '.join(known)}. Name the preset it was trained by (--preset NAME), or write a student "
        "that says it itself: piflow convert SRC DST --to native --preset NAME"
    )


def _recipes(layout: Layout) -> list[tuple[int, str]]:
    return [item for presets in layout.presets.values() for item in presets.items()]


LAYOUTS = {
    "dit": Layout({"gmflow": "GMDiTTransformer2DModelV2", "dx": "DXDiTTransformer2DModel"}, projection="proj_out_2"),
    "flux": Layout(
        {"gmflow": "GMFluxTransformer2DModel", "dx": "FluxTransformer2DModel"},
        projection="proj_out",
        aliases={"dx": "DXFluxTransformer2DModel"},
        presets={"gmflow": {4: "flux-4nfe", 8: "flux-8nfe"}, "dx": {4: "flux-4nfe-dx"}},
        marks=(".proj_mlp.",),
        extra={"gmflow": {"logweights_channels": 4}},
        foreign={"gmflow": ("patch_size",)},
    ),
    "qwen_image": Layout(
        {"gmflow": "GMQwenImageTransformer2DModel", "dx": "QwenImageTransformer2DModel"},
        projection="proj_out",
        aliases={"dx": "DXQwenImageTransformer2DModel"},
        presets={"gmflow": {4: "qwen-4nfe"}, "dx": {4: "qwen-4nfe-dx"}},
        marks=(".img_mlp.",),
        extra={"gmflow": {"logweights_channels": 4}},
        foreign={"gmflow": ("patch_size", "guidance_embeds")},
    ),
    "flux2": Layout(
        {"gmflow": "GMFlux2Transformer2DModel", "dx": "Flux2Transformer2DModel"},
        projection="proj_out",
        aliases={"dx": "DXFlux2Transformer2DModel"},
        presets={"gmflow": {4: "flux2-dev-4nfe"}},
        marks=(".to_qkv_mlp_proj.", ".ff.linear_in.", "time_guidance_embed."),
        extra={"gmflow": {"logweights_channels": 4}},
        foreign={"gmflow": ("patch_size",)},
    ),
}
"""Of families whose students were published, by `type` of the teacher; each is a `ReleasedFamily`."""


class ReleasedNetwork(Protocol):
    """A network, its head aside, as the released files hold it."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    caveats: tuple[str, ...]


class ReleasedFamily(Protocol):
    """What the settings of a teacher family do for these files."""

    transformer_class: str
    """Of diffusers; families with adapters only."""
    backbone_class: type[Backbone]
    """Families with adapters only."""

    def to_released(self, weights: dict[str, Tensor], network: dict[str, Any]) -> ReleasedNetwork:
        """Weights, by the module's names, and description of a network in released form."""
        ...

    def from_released(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights by the module's own names."""
        ...

    def describe_released(self, weights: dict[str, Tensor], config: dict[str, Any] | None) -> dict[str, Any]:
        """The description of a network from its released weights, and from its config where there is one."""
        ...

    def build(self, config: dict[str, Any]) -> nn.Module:
        """The module on the meta device; families with adapters only."""
        ...

    def backbone(self, config: dict[str, Any]) -> Backbone:
        """How to call it; families with adapters only."""
        ...


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights by released names, in one file or in shards."""
    return (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()


def is_released(names: list[str], metadata: dict[str, str]) -> bool:
    """Whether names and metadata of a weight file are a released student's."""
    typical = any(name.removeprefix(PREFIX).startswith(TYPICAL_NAMES) for name in names)
    return typical or not metadata.keys().isdisjoint({POLICY_KEY, CARD_KEY})


def to_released(student: StoredStudent) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """A student's weights by released names, its config.json, and the metadata of its weight file.

    Raises:
        ModelError: the layout has no place for this teacher or policy.
    """
    card, layout = student.card, layout_of(student.card.teacher)
    head, network, prefix = head_of(card.policy), released_network(student), f"{layout.projection}."
    layers = {
        head.to_released(name.removeprefix(prefix), layout.projection): tensor
        for name, tensor in student.weights.items()
        if name.startswith(prefix)
    }
    foreign = layout.foreign.get(card.policy.type, ())
    config = {key: value for key, value in network.config.items() if key not in foreign}
    config |= head.config(card.policy, in_channels=network.config["in_channels"])
    config |= layout.extra.get(card.policy.type, {})
    config["_class_name"] = layout.class_names[card.policy.type]
    metadata = {POLICY_KEY: json.dumps(head.metadata(card.policy)), CARD_KEY: card.model_dump_json()}
    return network.weights | layers, config, metadata


def own_names(card: StudentCard, weights: dict[str, Tensor], said: dict[str, Any]) -> dict[str, Tensor]:
    """Released weights by the names of the student's module.

    Args:
        said: the policy's metadata, empty where there is none.
    """
    layout = layout_of(card.teacher)
    body, head, _ = split_head(weights, said, layout)
    return card.teacher.from_released(body) | {f"{layout.projection}.{name}": tensor for name, tensor in head.items()}


def layout_of(teacher: Any) -> Layout:
    """The layout of a teacher family's students: as published, else by the rule that the published ones follow."""
    if teacher.type in LAYOUTS:
        return LAYOUTS[teacher.type]
    backbone, whole = teacher.backbone_class, teacher.transformer_class
    return Layout(
        {"gmflow": f"GM{whole}", "dx": whole},
        projection=backbone.projection_name,
        aliases={"dx": f"DX{whole}"},
        extra={"gmflow": {"logweights_channels": backbone.layout.positions}},
    )


def head_of(policy: PolicyFamily) -> HeadLayout:
    """The released form of a policy's head.

    Raises:
        ModelError: none is known.
    """
    for head in HEADS:
        if head.policy == policy.type:
            return head
    known = ", ".join(head.policy for head in HEADS)
    raise ModelError(f"the released layout is known for {known} policies, not for {policy.type}; use native")


def released_network(student: StoredStudent) -> ReleasedNetwork:
    """The student's network without its head."""
    prefix = f"{layout_of(student.card.teacher).projection}."
    body = {name: tensor for name, tensor in student.weights.items() if not name.startswith(prefix)}
    return student.card.teacher.to_released(body, student.card.network)


def split_head(
    weights: dict[str, Tensor], said: dict[str, Any], layout: Layout
) -> tuple[dict[str, Tensor], dict[str, Tensor], HeadLayout]:
    """Released weights as those of the body, those of the head by their names within it, and which head it is.

    Args:
        said: the policy's metadata, empty where there is none.

    Raises:
        ModelError: no head, or another than the metadata says.
    """
    names = {head: {name: head.from_released(name, layout.projection) for name in weights} for head in HEADS}
    for head in HEADS:
        found = {name: layer for name, layer in names[head].items() if layer is not None}
        if found and said.get("type", head.released) == head.released:
            body = {name: tensor for name, tensor in weights.items() if name not in found}
            return body, {layer: weights[name] for name, layer in found.items()}, head
    kinds = " or ".join(head.released for head in HEADS)
    raise ModelError(f"the weights hold no head of {said.get('type', kinds)} ({kinds} can be read)")
