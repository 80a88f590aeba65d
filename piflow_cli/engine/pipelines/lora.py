"""Other people's LoRA (style LoRA) on top of a student, by diffusers' own methods.

diffusers makes the LoRA that was loaded or named last the only active one, and unloads all of them. A student's own
LoRA (peft's adapter "piflow") is half of its network: here every method leaves it active and at full strength.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from torch import nn

from piflow_cli.core.adapter import ADAPTER
from piflow_cli.engine.pipelines.lora_layers import (
    TRANSFORMER,
    Scales,
    carries,
    check_loadable,
    check_widths,
    fuse,
    lora_layers,
    to_student_side,
    unfuse,
    unwrap_empty,
)
from piflow_cli.errors import ModelError


class StyleLoras:
    """What a LoRA pipeline of diffusers does otherwise where its transformer is a student; comes before its class."""

    projection_name: ClassVar[str]
    """The projection of the base that the student's head replaces."""

    _own_layers: tuple[str, ...] = ()
    """Layers that carry the student's own LoRA."""
    _resting: list[str] | None = None
    """Style LoRA that `disable_lora` switched off, None where it did not."""
    _fused: Scales

    def _remember_own_lora(self) -> None:
        """Note where the student's own LoRA is, once it is loaded."""
        self._fused = {}
        self._own_layers = tuple(name for name, layer in lora_layers(self._module).items() if carries(layer, ADAPTER))

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | dict[str, Any],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a style LoRA and make it the active one, beside the student's own.

        Args: as diffusers' method; `adapter_name` may not be "piflow".

        Raises:
            ValueError: a LoRA that no student can carry (control, LoKr), or a name that is taken.
        """
        _refuse_own([adapter_name], "load a style LoRA under another adapter_name")
        if adapter_name is None and not hotswap:
            adapter_name = self._free_name()
        self._rest_only([])
        try:
            super().load_lora_weights(pretrained_model_name_or_path_or_dict, adapter_name, hotswap, **kwargs)
        finally:
            unwrap_empty(self._module)  # what a load that failed left behind
            self._settle()

    @classmethod
    def lora_state_dict(cls, pretrained_model_name_or_path_or_dict: str | dict[str, Any], **kwargs: Any) -> Any:
        """As diffusers' method, without what belongs to the projection that a student has no longer."""
        found = super().lora_state_dict(pretrained_model_name_or_path_or_dict, **kwargs)
        whole, *rest = found if isinstance(found, tuple) else (found,)
        weights = check_loadable(whole, cls.projection_name)
        if len(weights) < len(whole):
            warnings.warn(
                f"weights for {cls.projection_name} are left out: the student's head replaces it", stacklevel=2
            )
        return (weights, *rest) if isinstance(found, tuple) else weights

    @classmethod
    def load_lora_into_transformer(cls, state_dict: dict[str, Any], **kwargs: Any) -> None:
        """As diffusers' method; weights for a module that the student has in its own version go to that version."""
        state_dict, kwargs = to_student_side(kwargs[TRANSFORMER], state_dict, kwargs)
        super().load_lora_into_transformer(state_dict, **kwargs)

    @classmethod
    def _maybe_expand_transformer_param_shape_or_error_(
        cls, transformer: nn.Module, lora_state_dict: dict[str, Any] | None = None, *_: Any
    ) -> bool:
        """Where diffusers would widen a layer of FLUX for a control LoRA, refuse it."""
        check_widths(transformer, lora_state_dict or {})
        return False

    def set_adapters(self, adapter_names: list[str] | str, adapter_weights: Any = None) -> None:
        """Choose the active style LoRA and their weights; the student's own stays active at 1.

        Args: as diffusers' method; no names at all is the student alone.

        Raises:
            ValueError: an unknown or fused name, or another weight than 1 for "piflow".
        """
        names = _as_list(adapter_names)
        weights = adapter_weights if isinstance(adapter_weights, list) else [adapter_weights] * len(names)
        if len(names) != len(weights):
            raise ValueError(f"there are {len(names)} adapter_names and {len(weights)} adapter_weights")
        chosen = dict(zip(names, weights, strict=True))
        if chosen.pop(ADAPTER, None) not in (None, 1):
            raise ValueError(f"{ADAPTER!r} is the student itself and stays at weight 1; leave it out of adapter_names")
        if fused := [name for name in chosen if name in self.fused_loras]:
            raise ValueError(f"{', '.join(fused)} is fused into the weights; call unfuse_lora first")
        self._rest_only([])
        if chosen:
            copies = [dict(weight) if isinstance(weight, dict) else weight for weight in chosen.values()]
            super().set_adapters(list(chosen), copies)
        else:
            self._activate([])
        self._settle()

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Remove style LoRA; what they were on is as before they were loaded.

        Raises:
            ValueError: "piflow" is among the names.
        """
        names = _as_list(adapter_names)
        _refuse_own(names, "unload_lora_weights removes all other LoRA")
        active = [name for name in self._styles() if name not in names]
        self._rest_only([name for name in self._resting or () if name not in names])
        super().delete_adapters(names)
        for part in self._parts():
            unwrap_empty(part)
        for name in names:
            self._fused.pop(name, None)  # as in diffusers, what is fused stays in the weights
        self._activate(active)
        self._settle()

    def unload_lora_weights(self, reset_to_overwritten_params: bool = False) -> None:  # noqa: ARG002
        """Remove every style LoRA, never the student's own; nothing else was overwritten that could be reset."""
        loaded = [name for names in self.get_list_adapters().values() for name in names if name != ADAPTER]
        self._resting = None
        self.delete_adapters(list(dict.fromkeys(loaded)))

    def disable_lora(self) -> None:
        """Switch the style LoRA off until `enable_lora`; the student stays."""
        if self._resting is None:
            self._resting = self._styles()
        self._settle()

    def enable_lora(self) -> None:
        """Switch the style LoRA on again that `disable_lora` switched off."""
        resting, self._resting = self._resting, None
        if resting is not None:
            self._activate(resting)
        self._settle()

    def fuse_lora(
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
    ) -> None:
        """Add style LoRA to the weights below; the student's own LoRA is not fused and works on.

        Args: as diffusers' method; without names the active style LoRA.

        Raises:
            ValueError: an unknown, own or fused name, or weights that offloading has moved away.
        """
        components = [TRANSFORMER] if components is None else components
        names = self._styles() if adapter_names is None else list(adapter_names)
        _refuse_own(names, "it stays beside the weights, so that style LoRA can be fused and unfused below it")
        self._check_fusable(names)
        if others := [component for component in components if component != TRANSFORMER]:
            super().fuse_lora(others, lora_scale, safe_fusing, names)
        self._fused |= {name: {} for name in names}
        if TRANSFORMER in components:
            self._fused |= fuse(self._module, names, scale=lora_scale, safe=safe_fusing)
        self._merged_adapters = self._merged_adapters | set(names)
        self._activate([name for name in self._styles() if name not in names])
        self._settle()

    def unfuse_lora(self, components: list[str] | None = None) -> None:
        """Take fused style LoRA out of the weights again, up to rounding, and make them active.

        Raises:
            ValueError: one of them was unloaded since, or only some of the components are asked for.
        """
        if components is not None and TRANSFORMER not in components:
            raise ValueError(f"style LoRA is unfused as a whole; leave components out, or name {TRANSFORMER} too")
        if gone := self._merged_adapters - set(self._fused):
            raise ValueError(f"{', '.join(sorted(gone))} was unloaded after it was fused; load the pipeline again")
        others = {name: getattr(self, name, None) for name in self._lora_loadable_modules if name != TRANSFORMER}
        if merged := [name for name, part in others.items() if part is not None and _is_merged(part)]:
            super().unfuse_lora(merged)
        unfuse(self._module, self._fused)
        self._activate([*self._styles(), *self._fused])
        self._merged_adapters, self._fused = set(), {}
        self._settle()

    def enable_lora_hotswap(self, **kwargs: Any) -> None:
        """Refuse where the student has LoRA of its own: diffusers would pad every LoRA to one rank.

        Raises:
            ValueError: the student is an adapter.
        """
        if self._own_layers:
            raise ValueError("enable_lora_hotswap would pad the student's own LoRA too; swap style LoRA of equal rank")
        super().enable_lora_hotswap(**kwargs)

    def get_active_adapters(self) -> list[str]:
        """Names of all LoRA that act, the student's own ("piflow") first."""
        layers = [layer for part in self._parts() for layer in lora_layers(part).values()]
        return list(dict.fromkeys(name for layer in layers for name in layer.active_adapters))

    def _check_own_lora(self) -> None:
        """Make the student's own LoRA active where something else than this pipeline switched it off.

        Raises:
            ModelError: it was removed.
            ValueError: style LoRA was fused past this pipeline, so that layers leave the student's own out.
        """
        layers = lora_layers(self._module)
        if gone := [name for name in self._own_layers if not carries(layers.get(name), ADAPTER)]:
            raise ModelError(
                f"the student's own LoRA is gone from {len(gone)} layers, such as {gone[0]}: transformer.unload_lora() "
                "removes all LoRA, pipe.unload_lora_weights() style LoRA only. Load the pipeline again."
            )
        if any(
            layers[name].merged_adapters and ADAPTER not in layers[name].merged_adapters for name in self._own_layers
        ):
            raise ValueError("style LoRA was fused by the transformer's own method; call pipe.fuse_lora instead")
        if self._resting is None and any(layer.disable_adapters for layer in layers.values()):
            self._resting = self._styles()
        self._settle()

    @property
    def _module(self) -> nn.Module:
        """The transformer itself, where it was compiled too."""
        return getattr(self.transformer, "_orig_mod", self.transformer)

    def _parts(self) -> list[nn.Module]:
        """What may carry LoRA."""
        named = {name: getattr(self, name, None) for name in self._lora_loadable_modules} | {TRANSFORMER: self._module}
        return [part for part in named.values() if isinstance(part, nn.Module)]

    def _styles(self) -> list[str]:
        """Active style LoRA."""
        return [name for name in self.get_active_adapters() if name != ADAPTER]

    def _activate(self, names: list[str]) -> None:
        """Make these style LoRA, and no others, active in every part."""
        for part in self._parts():
            for layer in lora_layers(part).values():
                layer.set_adapter(list(names))
            part.requires_grad_(False)

    def _rest_only(self, names: list[str]) -> None:
        """Where `disable_lora` is in force, let it be for these style LoRA, and for those that become active."""
        self._resting = None if self._resting is None else names

    def _settle(self) -> None:
        """Make the student's own LoRA active at 1 beside whatever is; what `disable_lora` switched off stays off."""
        if self._resting is not None:
            self._resting = list(dict.fromkeys([*self._resting, *self._styles()]))
            self._activate([])
        own = [ADAPTER] if self._own_layers else []
        for layer in lora_layers(self._module).values():
            names = [*own, *(name for name in layer.active_adapters if name != ADAPTER)]
            if layer.disable_adapters or layer.active_adapters != names:
                layer.enable_adapters(True)
                layer.set_adapter(names)
            layer.set_scale(ADAPTER, 1.0)
        self._module.requires_grad_(False)

    def _free_name(self) -> str:
        taken = {name for names in self.get_list_adapters().values() for name in names}
        return next(name for i in range(len(taken) + 1) if (name := f"default_{i}") not in taken)

    def _check_fusable(self, names: list[str]) -> None:
        from diffusers.hooks.group_offloading import _is_group_offload_enabled

        known = {name for present in self.get_list_adapters().values() for name in present}
        if missing := [name for name in names if name not in known]:
            raise ValueError(f"no LoRA is called {', '.join(missing)}; there are {', '.join(sorted(known)) or 'none'}")
        if fused := [name for name in names if name in self.fused_loras]:
            raise ValueError(f"{', '.join(fused)} is fused already")
        if any(p.is_meta for p in self._module.parameters()) or _is_group_offload_enabled(self._module):
            raise ValueError("offloading has moved the weights away; fuse LoRA before it is enabled")


def _is_merged(part: nn.Module) -> bool:
    return any(layer.merged for layer in lora_layers(part).values())


def _as_list(names: list[str] | str) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _refuse_own(names: list[str | None], advice: str) -> None:
    if ADAPTER in names:
        raise ValueError(f"{ADAPTER!r} is the student's own LoRA; {advice}")
