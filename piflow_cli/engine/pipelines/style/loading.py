"""Reading a style LoRA into a student: what diffusers' loaders do, and a word on what is left out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from piflow_cli.engine.pipelines.style.weights import (
    TEXT_ENCODER,
    TRANSFORMER,
    check_loadable,
    check_widths,
    fitting,
    read_lora,
    said_of,
    to_student_side,
)


class LoadsStyle:
    """The class methods of a LoRA pipeline of diffusers that read weights and hand them to its parts."""

    projection_name: ClassVar[str]
    """The projection of the base that the student's head replaces."""
    _lora_loadable_modules: ClassVar[list[str]]

    @classmethod
    def lora_state_dict(cls, pretrained_model_name_or_path_or_dict: Any, **kwargs: Any) -> Any:
        """As diffusers' method, without what belongs to the projection that a student has no longer.

        Raises:
            ModelError: a file that does not exist.
            ValueError: a control LoRA or a LoKr adapter.
        """
        given, metadata = read_lora(pretrained_model_name_or_path_or_dict, kwargs)
        if scales := [key for key in given if "dora_scale" in key]:
            _warn(
                f"this is a DoRA: {said_of(scales, 'magnitudes (dora_scale)')}, are left out, because diffusers does "
                "not read them; the rest acts as plain LoRA, which is not what it was trained as"
            )
        plain = {key: tensor for key, tensor in given.items() if key not in scales}
        converted = dict(plain)
        found = super().lora_state_dict(converted, **kwargs)
        whole, *rest = found if isinstance(found, tuple) else (found,)
        if 0 < len(converted) < len(plain) and (unread := [key for key in converted if key not in whole]):
            _warn(f"{said_of(unread, 'weights are left out', of=len(plain))}: diffusers does not know their names")
        weights = check_loadable(whole, cls.projection_name)
        if len(weights) < len(whole):
            _warn(f"weights for {cls.projection_name} are left out: the student's head replaces it")
        if kwargs.get("return_lora_metadata"):
            rest[-1] = metadata
        return (weights, *rest) if isinstance(found, tuple) else weights

    @classmethod
    def load_lora_into_transformer(cls, state_dict: dict[str, Any], **kwargs: Any) -> None:
        """As diffusers' method; weights for a module that the student has in its own version go to that version.

        Raises:
            ValueError: none of the layers is there, or they have other widths.
        """
        module = getattr(kwargs[TRANSFORMER], "_orig_mod", kwargs[TRANSFORMER])
        state_dict, kwargs = to_student_side(module, state_dict, kwargs)
        pipeline = kwargs.get("_pipeline")
        others = [] if pipeline is None else [name for name in cls._lora_loadable_modules if name != TRANSFORMER]
        parts = {TRANSFORMER: module} | {name: getattr(pipeline, name, None) for name in others}
        check_widths(module, state_dict)
        super().load_lora_into_transformer(_what_fits(parts, state_dict), **kwargs)

    @classmethod
    def load_lora_into_text_encoder(cls, state_dict: dict[str, Any], **kwargs: Any) -> None:
        """As diffusers' method, for the layers that the text encoder has; `load_lora_into_transformer` names others."""
        encoder = kwargs.get(TEXT_ENCODER)
        kept = fitting(TEXT_ENCODER, encoder, state_dict).kept
        if kept:
            super().load_lora_into_text_encoder(kept, **kwargs)

    @classmethod
    def _maybe_expand_transformer_param_shape_or_error_(
        cls, transformer: nn.Module, lora_state_dict: dict[str, Any] | None = None, *_: Any
    ) -> bool:
        """Where diffusers would widen a layer of FLUX for a control LoRA, or the LoRA for it, refuse it."""
        check_widths(getattr(transformer, "_orig_mod", transformer), lora_state_dict or {})
        return False


def _what_fits(parts: Mapping[str, nn.Module | None], weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights whose layers the parts have; what is left out is warned of.

    Raises:
        ValueError: nothing would be left.
    """
    sorted_ = {name: fitting(name, module, weights) for name, module in parts.items()}
    left = [f"{name}.{layer}" for name, found in sorted_.items() for layer in found.left]
    elsewhere = [key for key in weights if key.split(".")[0] not in parts]
    kept = {key: tensor for found in sorted_.values() for key, tensor in found.kept.items()}
    count = sum(found.count for found in sorted_.values())
    if not kept:
        raise ValueError(
            f"nothing of this LoRA fits: {said_of([*left, *elsewhere], 'layers or weights')}, not found in the base "
            f"model ({', '.join(parts)}). It was made for another model."
        )
    if left:
        _warn(f"{said_of(left, 'layers of this LoRA are left out', of=count)}: not found in the base model, or in half")
    if elsewhere:
        _warn(
            f"{said_of(elsewhere, 'weights of this LoRA are left out', of=len(weights))}: they are for other parts "
            f"than {', '.join(parts)}"
        )
    return kept


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
