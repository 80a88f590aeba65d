"""A run that begins with a student in place of its teacher: whether the student fits, and putting its weights in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from piflow_cli.core.adapter import AdapterSettings, chosen_targets
from piflow_cli.core.interfaces import Backbone, PolicyFamily, TeacherFamily
from piflow_cli.engine.distill.resume.sources import digests_of_teacher
from piflow_cli.engine.plan.model import described
from piflow_cli.engine.processes.sharded import fill
from piflow_cli.engine.students.find import find_student
from piflow_cli.engine.students.load import peek_card, read_student
from piflow_cli.engine.students.save import PATH_KEYS, anchored
from piflow_cli.errors import PresetError
from piflow_cli.formats.student import StudentCard
from piflow_cli.io.weights import check_shapes
from piflow_cli.preset import Preset

if TYPE_CHECKING:
    from piflow_cli.engine.distill.resume.snapshot import Snapshot

IGNORED = ("out_channels",)
"""Keys of a module's config that its head decides."""


def check_init(preset: Preset) -> None:
    """Refuse a student that a run of this preset cannot begin with, with every reason, before anything is loaded.

    Raises:
        PresetError: it is of another teacher, policy, number of components or adapter.
        ModelError: there is no such student, or it is damaged.
    """
    source = preset.training.init
    if source is None:
        return
    path = find_student(source)
    card = peek_card(path) or read_student(path, recipe=preset)[0].card
    reasons = misfits(card, preset)
    if reasons:
        raise PresetError(
            f"training.init: a run of {preset.name} cannot begin with {source}: {'; '.join(reasons)}. Change the "
            "preset to what the student is, or begin with the teacher (leave --init out)."
        )


def misfits(card: StudentCard, preset: Preset) -> list[str]:
    """Why a student's weights have no place in a preset's student, or mean something else there; none: they fit."""
    if card.teacher.type != preset.teacher.type:
        return [f"teacher.type is {card.teacher.type} there, {preset.teacher.type} here"]
    module, backbone = described(preset)
    architecture = _other_architecture(card, module)
    if architecture:
        return [f"its teacher is of another architecture ({', '.join(architecture[:4])})"]
    found = _other_teacher(card.teacher, preset.teacher)
    found += _other_policy(card.policy, preset.policy, module, backbone)
    return found + _other_adapter(card.adapter, preset.adapter, module, backbone)


def _other_architecture(card: StudentCard, module: nn.Module) -> list[str]:
    """Keys of the two modules' configs that differ."""
    there, here = card.network.get("config", {}), dict(module.config)
    keys = [key for key in here if key in there and key not in IGNORED and not key.startswith("_")]
    pairs = [(key, there[key], list(here[key]) if isinstance(here[key], tuple) else here[key]) for key in keys]
    return [f"{key} {a!r} there, {b!r} here" for key, a, b in pairs if a != b]


def _other_teacher(there: TeacherFamily, here: TeacherFamily) -> list[str]:
    """Whether two sources hold other weights, as far as their names, or their files on this machine, say it."""
    places = [
        anchored(family).model_dump(include=set(PATH_KEYS) - {"vae"}, exclude_none=True) for family in (there, here)
    ]
    if places[0] == places[1]:
        return []
    known = [digests_of_teacher(family) for family in (there, here) if _is_here(family)]
    if len(known) == 2 and known[0] == known[1]:
        return []
    if len(known) == 1:  # the same base, by its hub id there and as a folder here: the architecture has to do
        return []
    return [f"it learnt from another teacher ({there.source} there, {here.source} here)"]


def _is_here(family: TeacherFamily) -> bool:
    """Whether every source of a teacher is on this machine."""
    try:
        paths = family.source_paths()
    except PresetError:
        return False
    return "source" in paths and all(path.exists() for path in paths.values())


def _other_policy(there: PolicyFamily, here: PolicyFamily, module: nn.Module, backbone: Backbone) -> list[str]:
    """Another family, or a head of other shapes, by the keys that differ."""
    if there.type != here.type:
        return [f"policy.type is {there.type} there, {here.type} here"]
    if _head_shapes(there, module, backbone) == _head_shapes(here, module, backbone):
        return []
    values, own = here.model_dump(), there.model_dump()
    different = [
        f"policy.{key} is {own[key]!r} there, {value!r} here" for key, value in values.items() if own[key] != value
    ]
    return [f"its head has other shapes ({', '.join(different)})"]


def _head_shapes(family: PolicyFamily, module: nn.Module, backbone: Backbone) -> dict[str, tuple[int, ...]]:
    head = family.build_head(
        backbone.projection(module),
        latent_channels=backbone.latent_channels,
        embed_dim=backbone.embed_dim(module),
        layout=backbone.layout,
    )
    return {name: tuple(parameter.shape) for name, parameter in head.named_parameters()}


def _other_adapter(
    there: AdapterSettings | None, here: AdapterSettings | None, module: nn.Module, backbone: Backbone
) -> list[str]:
    """LoRA of another rank, on other layers, or on one side alone."""
    if (there is None) != (here is None):
        return [
            "it is "
            + ("an adapter, and this run trains all weights" if there else "no adapter, and this run trains one")
        ]
    if there is None or here is None:
        return []
    found = [f"adapter.rank is {there.rank} there, {here.rank} here"] if there.rank != here.rank else []
    replaced, published = (*backbone.trained_modules, backbone.projection_name), backbone.lora_targets(module)
    layers = [set(chosen_targets(module, side, published, replaced=replaced)) for side in (there, here)]
    return found + ["adapter.targets are other layers"] * (layers[0] != layers[1])


@torch.no_grad()
def begin(preset: Preset, snapshot: Snapshot) -> str:
    """Give a run's weights and their average those of the student that it begins with; returns what to say of it.

    A student's weights are an average already: it is where training and its new average start.

    Raises:
        ModelError: the student is gone, damaged or of other shapes.
    """
    source = preset.training.init
    if source is None:
        return ""
    stored, _ = read_student(find_student(source), recipe=preset)
    check_shapes(stored.weights, snapshot.own, source=source)
    for name, parameter in snapshot.own.items():
        fill(parameter, stored.weights[name].to(parameter.dtype))
        fill(snapshot.ema.averages[name], stored.weights[name].to(snapshot.ema.averages[name].dtype))
    trained = stored.card.sampling.nfe
    return f"begins with {source}, trained for {stored.card.steps:,} steps at {trained} NFE"
