"""What a preset for a text-to-image pipeline should say, read off its configs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from piflow_cli.core.interfaces import Advice
from piflow_cli.errors import ModelError
from piflow_cli.io.weights import read_json
from piflow_cli.teachers.text.loading.base import base_file

SCHEDULER = "scheduler/scheduler_config.json"
USUAL_STEPS = 50
"""Of a teacher, where its scheduler goes by their number."""

if TYPE_CHECKING:
    from piflow_cli.teachers.text.settings import TextSettings


def advice(
    settings: TextSettings, *, halvings: Callable[[dict[str, Any]], int], embeds: bool, usual: bool
) -> tuple[Advice, ...]:
    """Size, length of prompts, guidance and shift.

    Args:
        settings: of the preset that is started from, for this source.
        halvings: how many times an autoencoder of some config halves a picture's sides.
        embeds: whether the network takes the guidance scale as an input.
        usual: whether the network that the settings were made for does.

    Raises:
        ModelError: the autoencoder's config cannot be had.
    """
    autoencoder = read_json(base_file(settings, "vae/config.json"))
    factor, backbone = 2 ** halvings(autoencoder), settings.backbone_class
    sizes = _sizes(settings, autoencoder, factor * max(backbone.side_steps()))
    shift = _shift(settings, sizes, factor * max(backbone.layout.sides))
    return (*sizes, *_length(settings), _guidance(settings, embeds, usual), shift)


def _sizes(settings: TextSettings, autoencoder: dict[str, Any], step: int) -> list[Advice]:
    """The size that the autoencoder's config names, in steps that latents and patches allow; else the settings' own."""
    own = autoencoder.get("sample_size")
    sides = {"width": settings.width, "height": settings.height}
    why = f"pixels, a multiple of {step}"
    if isinstance(own, int) and own >= step:
        sides, why = dict.fromkeys(sides, own), f"{why}; {own} by its autoencoder"
    return [Advice(f"teacher.{name}", max(step, round(side / step) * step), why) for name, side in sides.items()]


def _length(settings: TextSettings) -> list[Advice]:
    """The limit of the main tokenizer, where it is below that of the settings."""
    part = settings.tokenizers[-1]
    try:
        limit = read_json(base_file(settings, f"{part}/tokenizer_config.json")).get("model_max_length")
    except ModelError:  # tokenizers need no such file
        return []
    if not isinstance(limit, int) or limit >= settings.max_sequence_length or limit < 1:
        return []
    return [Advice("teacher.max_sequence_length", limit, f"tokens, by its {part}")]


def _guidance(settings: TextSettings, embeds: bool, usual: bool) -> Advice:
    key, scale = "teacher.guidance_scale", settings.guidance_scale
    if embeds:
        return Advice(key, scale, "a choice, embedded by its network; the student must be sampled with the same")
    if not usual:
        return Advice(key, scale, "a choice, by two passes an evaluation, with teacher.negative_prompt; 1 is none")
    return Advice(key, 1.0, "its network embeds none; above 1 takes two passes, if it learnt without prompts too")


def _shift(settings: TextSettings, sizes: list[Advice], patch: int) -> Advice:
    """What its scheduler has at that size, of patches of so many pixels a side; the recipe's own stays."""
    config = read_json(base_file(settings, SCHEDULER))
    width, height = (size.value for size in sizes)
    try:
        own = settings.own_shift(config, width * height // patch**2, num_steps=USUAL_STEPS)
    except ModelError as error:
        return Advice("sampling.shift", None, str(error))
    at = f"{width}x{height} in {USUAL_STEPS} steps"
    return Advice("sampling.shift", None, f"the recipe's; its own scheduler has {own.m:.3g} at {at}")
