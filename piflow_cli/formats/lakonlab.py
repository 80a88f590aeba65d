"""The layout of the published students: a config.json, and one weight file that carries its policy in its metadata.

What the layout leaves unsaid (NFE, shift, teacher, time scale, class names) is one more metadata key when written here,
and comes from a recipe when read from a file that lacks it.

Source: the authors' public implementation of pi-Flow (LakonLab) and its released weights.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from torch import Tensor

from piflow_cli.core.adapter import AdapterSettings, lora_layout
from piflow_cli.core.interfaces import PolicyFamily
from piflow_cli.errors import ModelError
from piflow_cli.formats.lakonlab_heads import HEAD_KEYS, HEADS, HeadLayout
from piflow_cli.formats.student import Recipe, StoredStudent, StudentCard
from piflow_cli.weights import read_header, read_json, read_weights

CONFIG, WEIGHTS, VAE = "config.json", "diffusion_pytorch_model.safetensors", "vae"
POLICY_KEY, CARD_KEY = "policy_config", "piflow_card"
PREFIX = "transformer."
"""Names may carry it."""
TYPICAL_NAMES = ("proj_out_means.", "emb.")
"""Starts of names that only released files have."""
STOCK_CLASSES = ("FluxTransformer2DModel", "QwenImageTransformer2DModel")
"""Classes of diffusers that released DX students share with their bases: the name alone says nothing."""
PICKLE_SUFFIXES = (".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Layout:
    """How the files name the students of one teacher family.

    Args:
        class_names: `_class_name` of the config, by policy, as it is written.
        projection: name of the teacher's final projection.
        aliases: other names that are read, by policy.
        presets: what the published students were trained by, by policy and NFE; the first NFE is the usual one.
    """

    class_names: dict[str, str]
    projection: str
    aliases: dict[str, str] = field(default_factory=dict)
    presets: dict[str, dict[int, str]] = field(default_factory=dict)

    def policy_of(self, class_name: str | None) -> str | None:
        """The policy behind a `_class_name`, None where it is not one of this layout's."""
        named = {name: policy for policy, name in (*self.class_names.items(), *self.aliases.items())}
        return named.get(class_name)


LAYOUTS = {
    "dit": Layout({"gmflow": "GMDiTTransformer2DModelV2", "dx": "DXDiTTransformer2DModel"}, projection="proj_out_2"),
    "flux": Layout(
        {"gmflow": "GMFluxTransformer2DModel", "dx": "FluxTransformer2DModel"},
        projection="proj_out",
        aliases={"dx": "DXFluxTransformer2DModel"},
        presets={"gmflow": {4: "flux-4nfe", 8: "flux-8nfe"}, "dx": {4: "flux-4nfe-dx"}},
    ),
    "qwen_image": Layout(
        {"gmflow": "GMQwenImageTransformer2DModel", "dx": "QwenImageTransformer2DModel"},
        projection="proj_out",
        aliases={"dx": "DXQwenImageTransformer2DModel"},
        presets={"gmflow": {4: "qwen-4nfe"}, "dx": {4: "qwen-4nfe-dx"}},
    ),
}
"""By `type` of the teacher; a family with a row here is a `ReleasedFamily`."""


class ReleasedNetwork(Protocol):
    """A network, its head aside, as the released files hold it."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    caveats: tuple[str, ...]


class ReleasedFamily(Protocol):
    """What the settings of a teacher family do for this format."""

    def to_released(self, weights: dict[str, Tensor], network: dict[str, Any]) -> ReleasedNetwork:
        """Weights, by the module's names, and description of a network in released form."""
        ...

    def from_released(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights by the module's own names."""
        ...

    def describe_released(self, weights: dict[str, Tensor], config: dict[str, Any] | None) -> dict[str, Any]:
        """The description of a network from its released weights, and from its config where there is one."""
        ...


class LakonlabFormat:
    """A folder with config.json and the weights; a single released weight file can be read too."""

    name = "lakonlab"

    def matches(self, path: Path) -> bool:
        """Whether the config's class, or the names and metadata of the weight file, are a released student's."""
        file = _weight_file(path)
        if not file.is_file():
            return False
        if file.suffix in PICKLE_SUFFIXES:
            return True  # nothing can be said without reading it
        if file.suffix != ".safetensors":
            return False
        class_name = _read_config(file).get("_class_name")
        if class_name not in STOCK_CLASSES and any(layout.policy_of(class_name) for layout in LAYOUTS.values()):
            return True
        names, metadata = read_header(file)
        return not metadata.keys().isdisjoint({POLICY_KEY, CARD_KEY}) or any(
            name.removeprefix(PREFIX).startswith(TYPICAL_NAMES) for name in names
        )

    def usual_preset(self, path: Path) -> str | None:
        """The preset that published students of this class were trained by; the folder's name tells the NFE.

        None where the file says it itself, or nothing does.
        """
        file = _weight_file(path)
        if file.suffix != ".safetensors" or CARD_KEY in read_header(file)[1]:
            return None
        class_name = _read_config(file).get("_class_name")
        for layout in LAYOUTS.values():
            presets = layout.presets.get(layout.policy_of(class_name), {})
            for nfe, preset in reversed(presets.items()):
                if f"{nfe}step" in path.name or nfe == next(iter(presets)):
                    return preset
        return None

    def read(self, path: Path, *, recipe: Recipe | None = None) -> StoredStudent:
        """Read a released student; where it lacks this package's card, the recipe says what the layout does not.

        Raises:
            ModelError: it is damaged, of an unknown layout, at odds with the recipe, or there is no recipe.
        """
        file = _weight_file(path)
        metadata = read_header(file)[1] if file.suffix == ".safetensors" else {}
        weights = {name.removeprefix(PREFIX): tensor for name, tensor in read_weights(file).items()}
        said = _parse_metadata(metadata.get(POLICY_KEY), file)
        if CARD_KEY in metadata:
            card = StudentCard.parse(metadata[CARD_KEY], origin=f"{CARD_KEY} of {file}")
            body, head, _ = _split(weights, said, _layout(card.teacher))
        elif recipe is not None:
            body, head, head_layout = _split(weights, said, _layout(recipe.teacher))
            config = _read_config(file)
            policy = _policy(recipe, head_layout, head_layout.settings(config, said), path)
            config = {key: value for key, value in config.items() if key not in HEAD_KEYS}
            network = recipe.teacher.describe_released(body, config or None)
            adapter = _adapter(recipe, body, network, source=file)
            card = StudentCard.of(recipe, network, policy=policy, adapter=adapter)
        else:
            raise ModelError(
                f"{path} is in the authors' layout, which does not say its NFE, shift, teacher or time scale. Name the "
                "preset it was trained by: piflow convert SRC DST --to native --preset NAME"
            )
        prefix = f"{_layout(card.teacher).projection}."
        named = card.teacher.from_released(body) | {prefix + name: tensor for name, tensor in head.items()}
        vae = path / VAE
        return StoredStudent(card=card, weights=named, vae_folder=vae if vae.is_dir() else None)

    def write(self, student: StoredStudent, folder: Path) -> None:
        """Write config, weights with metadata, and the autoencoder into an empty folder.

        Raises:
            ModelError: the layout has no place for this teacher or policy.
        """
        from safetensors.torch import save_file

        weights, config, metadata = to_released(student)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        weights = {name: tensor.contiguous() for name, tensor in weights.items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"} | metadata)
        if student.vae_folder is not None:
            shutil.copytree(student.vae_folder, folder / VAE)

    def caveats(self, student: StoredStudent) -> tuple[str, ...]:
        """What the authors' own code would get wrong about the student."""
        return _released(student).caveats


def to_released(student: StoredStudent) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """A student's weights by released names, its config.json, and the metadata of its weight file.

    Raises:
        ModelError: the layout has no place for this teacher or policy.
    """
    card, layout = student.card, _layout(student.card.teacher)
    head, network, prefix = _head_of(card.policy), _released(student), f"{layout.projection}."
    layers = {
        head.to_released(name.removeprefix(prefix), layout.projection): tensor
        for name, tensor in student.weights.items()
        if name.startswith(prefix)
    }
    config = network.config | head.config(card.policy, in_channels=network.config["in_channels"])
    config["_class_name"] = layout.class_names[card.policy.type]
    metadata = {POLICY_KEY: json.dumps(head.metadata(card.policy)), CARD_KEY: card.model_dump_json()}
    return network.weights | layers, config, metadata


def _weight_file(path: Path) -> Path:
    return path / WEIGHTS if path.is_dir() else path


def _read_config(file: Path) -> dict[str, Any]:
    """The config beside a weight file, empty where there is none."""
    path = file.with_name(CONFIG)
    return read_json(path) if path.is_file() else {}


def _parse_metadata(text: str | None, file: Path) -> dict[str, Any]:
    """The policy's metadata, empty where there is none."""
    try:
        value = json.loads(text) if text is not None else {}
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"{POLICY_KEY} in the metadata of {file} is not a JSON object: {text!r}")
    return value


def _layout(teacher: Any) -> Layout:
    if teacher.type not in LAYOUTS:
        raise ModelError(
            f"the lakonlab layout is known for {', '.join(LAYOUTS)} students, not for {teacher.type}; use native"
        )
    return LAYOUTS[teacher.type]


def _head_of(policy: PolicyFamily) -> HeadLayout:
    for head in HEADS:
        if head.policy == policy.type:
            return head
    known = ", ".join(head.policy for head in HEADS)
    raise ModelError(f"the lakonlab layout is known for {known} policies, not for {policy.type}; use native")


def _released(student: StoredStudent) -> ReleasedNetwork:
    """The student's network without its head."""
    prefix = f"{_layout(student.card.teacher).projection}."
    body = {name: tensor for name, tensor in student.weights.items() if not name.startswith(prefix)}
    return student.card.teacher.to_released(body, student.card.network)


def _split(
    weights: dict[str, Tensor], said: dict[str, Any], layout: Layout
) -> tuple[dict[str, Tensor], dict[str, Tensor], HeadLayout]:
    """Released weights as those of the body, those of the head by their names within it, and which head it is."""
    names = {head: {name: head.from_released(name, layout.projection) for name in weights} for head in HEADS}
    for head in HEADS:
        found = {name: layer for name, layer in names[head].items() if layer is not None}
        if found and said.get("type", head.released) == head.released:
            body = {name: tensor for name, tensor in weights.items() if name not in found}
            return body, {layer: weights[name] for name, layer in found.items()}, head
    kinds = " or ".join(head.released for head in HEADS)
    raise ModelError(f"the weights hold no head of {said.get('type', kinds)} ({kinds} can be read)")


def _adapter(
    recipe: Recipe, weights: dict[str, Tensor], network: dict[str, Any], *, source: object
) -> AdapterSettings | None:
    """The recipe's adapter with the rank and the layers that the weights have; None for students without one."""
    if recipe.adapter is None:
        return None
    rank, layers = lora_layout(weights, source=source)
    published = recipe.teacher.backbone(network["config"]).lora_targets(recipe.teacher.build(network["config"]))
    targets = None if set(layers) == set(published) else tuple(layers)
    return recipe.adapter.model_copy(update={"rank": rank, "targets": targets})


def _policy(recipe: Recipe, head: HeadLayout, said: dict[str, Any], path: Path) -> PolicyFamily:
    """The recipe's policy with what the files say of it, checked against the recipe's sampling."""
    if recipe.policy.type != head.policy:
        raise ModelError(
            f"{path} holds a {head.released} student, but preset {recipe.name} is for {recipe.policy.type}; "
            "pass the preset it was trained by"
        )
    said = {key: value for key, value in said.items() if value is not None or key == "constant_logstd"}
    try:
        policy = type(recipe.policy).model_validate(recipe.policy.model_dump() | said)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{path} says {first['loc'][0]} = {first['input']!r}: {first['msg']}") from None
    policy.check_sampling(segments=recipe.sampling.segments, shift=recipe.sampling.shift)
    return policy
