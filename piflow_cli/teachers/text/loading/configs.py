"""The configs of transformers: built, compared and told apart by what decides the weights, not by who wrote them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from piflow_cli.io.bounds import check_config
from piflow_cli.teachers.configs import built_of, check_kinds
from piflow_cli.teachers.text.settings import TextSettings

if TYPE_CHECKING:
    from torch import nn


def build_transformer(settings: TextSettings, config: dict[str, Any]) -> nn.Module:
    """The transformer of a config on the meta device; its buffers are real.

    Raises:
        ModelError: its values are none of such a transformer's, or do not fit together.
    """
    import diffusers
    from accelerate import init_empty_weights

    module_class = getattr(diffusers, settings.transformer_class)
    origin = f"the transformer's config of {settings.source}"
    check_transformer_config(settings, config, origin=origin)
    with built_of(config, origin=origin), init_empty_weights(include_buffers=False):
        return module_class.from_config(plain_config(config))


def check_transformer_config(settings: TextSettings, config: dict[str, Any], *, origin: object) -> None:
    """Raise ModelError for a config with values that no transformer of these settings has."""
    import diffusers

    check_config(config, origin=origin)
    check_kinds(config, getattr(diffusers, settings.transformer_class), origin=origin)


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
