"""Reading students from files in the authors' published form, with this package's card in their metadata or without.

What the published files leave unsaid (NFE, shift, teacher, time scale, class names) comes from a recipe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from piflow_cli.core.adapter import AdapterSettings, lora_layout
from piflow_cli.core.interfaces import PolicyFamily
from piflow_cli.core.student import Student
from piflow_cli.errors import ModelError
from piflow_cli.formats.released.heads import HEAD_KEYS, HeadLayout
from piflow_cli.formats.released.layouts import (
    CARD_KEY,
    CONFIG,
    POLICY_KEY,
    PREFIX,
    WEIGHTS,
    is_released,
    layout_of,
    own_names,
    split_head,
)
from piflow_cli.formats.student import Recipe, StoredStudent, StudentCard
from piflow_cli.io.bounds import bounded_json
from piflow_cli.io.weights import check_shapes, read_header

LORA, ALPHA = ".lora_A.", ".alpha"
OTHER_BASE = "It is a student of another base; pass the one it was trained on (--base)."


@dataclass(frozen=True)
class ReleasedFile:
    """What a weight file holds, and the config beside it.

    Args:
        path: where it is, for messages.
        weights: by released names, without prefix.
        metadata: of the weight file.
        config: empty where there is none.
    """

    path: Path
    weights: dict[str, Tensor]
    metadata: dict[str, str]
    config: dict[str, Any]

    @property
    def said_of_policy(self) -> dict[str, Any]:
        """The policy's metadata, empty where there is none."""
        text = self.metadata.get(POLICY_KEY)
        try:
            value = bounded_json(text) if text is not None else {}
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ModelError(f"{POLICY_KEY} in the metadata of {self.path} is not a JSON object: {text!r}")
        return value

    def student(self, recipe: Recipe | None) -> StoredStudent | None:
        """The student by its card, or else by the recipe; None where there is neither.

        Raises:
            ModelError: the file is damaged, of an unknown layout, or at odds with the recipe.
        """
        if CARD_KEY in self.metadata:
            card = StudentCard.parse(self.metadata[CARD_KEY], origin=f"{CARD_KEY} of {self.path}")
        elif recipe is not None:
            card = _describe(self, recipe)
        else:
            return None
        return StoredStudent(card=card, weights=own_names(card, self.weights, self.said_of_policy))


def is_adapter_file(path: Path) -> bool:
    """Whether it is a student's adapter in one file that says all there is, as no config lies beside it."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    if path.name == WEIGHTS and path.with_name(CONFIG).is_file():
        return False
    names, metadata = read_header(path)
    return any(LORA in name for name in names) and is_released(names, metadata)


def plain_names(weights: dict[str, Tensor], *, source: object) -> dict[str, Tensor]:
    """Weights without the prefix of their names and without alpha keys.

    This project's alpha is the rank. Where other software wrote LAYER.alpha, lora_B takes the factor alpha / rank, so
    that the layer computes the same; that is exact for factors that are powers of two.

    Raises:
        ModelError: an alpha that is no number, or of a layer without LoRA.
    """
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
    for name in [name for name in weights if name.endswith(ALPHA)]:
        alpha, up = weights.pop(name), f"{name.removesuffix(ALPHA)}.lora_B.weight"
        if alpha.numel() != 1 or not math.isfinite(float(alpha)) or up not in weights:
            raise ModelError(f"{source}: {name} is no number, or there is no {up} that it could scale")
        factor = float(alpha) / weights[up].shape[1]
        if factor != 1:
            weights[up] = (weights[up].float() * factor).to(weights[up].dtype)
    return weights


def check_fits(card: StudentCard, weights: dict[str, Tensor], *, source: object) -> None:
    """Raise ModelError unless the weights are those of a student on the base that its card describes.

    No base is needed: the module is built on the meta device. For families whose students are used with their base.
    """
    family, config = card.teacher, card.network["config"]
    module = family.build(config)
    student = Student(module, backbone=family.backbone(config), family=card.policy, adapter=card.adapter)
    check_shapes(weights, student.own_parameters(), source=source)


def _describe(file: ReleasedFile, recipe: Recipe) -> StudentCard:
    """The card of a file that has none: what the recipe says, and what the file says counts more."""
    said = file.said_of_policy
    body, head, head_layout = split_head(file.weights, said, layout_of(recipe.teacher))
    adapted = any(LORA in name for name in body)
    config = file.config
    if adapted and not config:
        config = dict(recipe.teacher.describe()[0].config)
    config = {key: value for key, value in config.items() if key not in HEAD_KEYS}
    network = recipe.teacher.describe_released(body, config or None)
    sizes = head_layout.settings(file.config, said)
    if adapted and not file.config:
        backbone = recipe.teacher.backbone(network["config"])
        sizes |= head_layout.sizes(head, token_channels=backbone.latent_channels * backbone.layout.positions)
    policy = _policy(recipe, head_layout, sizes, file.path)
    if not adapted and recipe.adapter is None:
        return StudentCard.of(recipe, network, policy=policy)
    adapter = _adapter(recipe, body, network["config"], source=file.path)
    card = StudentCard.of(recipe, network, policy=policy, adapter=adapter)
    try:
        check_fits(card, own_names(card, file.weights, said), source=file.path)
    except ModelError as error:
        raise ModelError(f"{error}. {OTHER_BASE}") from None
    return card


def _adapter(recipe: Recipe, weights: dict[str, Tensor], config: dict[str, Any], *, source: object) -> AdapterSettings:
    """The recipe's adapter with the rank and the layers that the weights have."""
    rank, layers = lora_layout(weights, source=source)
    module = recipe.teacher.build(config)
    known = {name for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    strange = [layer for layer in layers if layer not in known]
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise ModelError(
            f"{source} has LoRA for {', '.join(strange[:3])}{more}, which {recipe.teacher.source} has not. {OTHER_BASE}"
        )
    published = recipe.teacher.backbone(config).lora_targets(module)
    targets = None if set(layers) == set(published) else tuple(layers)
    return (recipe.adapter or AdapterSettings()).model_copy(update={"rank": rank, "targets": targets})


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
