"""Other people's LoRA (style LoRA) on top of a student, by diffusers' own methods.

diffusers makes the LoRA that was loaded or named last the only active one, and unloads all of them. A student's own
LoRA (peft's adapter "piflow") is half of its network: here every method leaves it active and at full strength.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from piflow_cli.core.adapter import ADAPTER
from piflow_cli.engine.pipelines.style.fusing import fuse, unfuse
from piflow_cli.engine.pipelines.style.layers import layer_weights, unwrap_empty
from piflow_cli.engine.pipelines.style.loading import LoadsStyle
from piflow_cli.engine.pipelines.style.state import StyleState
from piflow_cli.engine.pipelines.style.weights import TRANSFORMER


class StyleLoras(StyleState, LoadsStyle):
    """What a LoRA pipeline of diffusers does otherwise where its transformer is a student; comes before its class."""

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
            ModelError: a file that does not exist.
            ValueError: a LoRA that no student can carry (control, LoKr) or that has none of the base's layers, or a
                name that is taken.
        """
        _refuse_own([adapter_name], "load a style LoRA under another adapter_name")
        if hotswap and adapter_name in self._live():
            raise ValueError(f"{adapter_name} is fused into the weights; call unfuse_lora first")
        if adapter_name is None and not hotswap:
            adapter_name = self._free_name()
        known = self._known()
        with self._changing(), warnings.catch_warnings():
            for said in ("Already found a `peft_config`", "While injecting the PEFT adapters"):
                warnings.filterwarnings("ignore", said)  # of what is meant here, or said better
            self._rest_only([])
            try:
                super().load_lora_weights(pretrained_model_name_or_path_or_dict, adapter_name, hotswap, **kwargs)
            except Exception:
                if adapter_name in self._known() - known:
                    super().delete_adapters(adapter_name)
                raise
            finally:
                for part in self._parts().values():
                    unwrap_empty(part)  # what a load that failed left behind

    def set_adapters(self, adapter_names: list[str] | str, adapter_weights: Any = None) -> None:
        """Choose the active style LoRA and their weights; the student's own stays active at 1.

        Args: as diffusers' method; no names at all is the student alone.

        Raises:
            ValueError: an unknown or fused name, weights for something that is not there, or another weight than 1 for
                "piflow".
        """
        names = _as_list(adapter_names)
        weights = adapter_weights if isinstance(adapter_weights, list) else [adapter_weights] * len(names)
        if len(names) != len(weights):
            raise ValueError(f"there are {len(names)} adapter_names and {len(weights)} adapter_weights")
        chosen = dict(zip(names, weights, strict=True))
        if chosen.pop(ADAPTER, None) not in (None, 1):
            raise ValueError(f"{ADAPTER!r} is the student itself and stays at weight 1; leave it out of adapter_names")
        if fused := [name for name in chosen if name in self._live()]:
            raise ValueError(f"{', '.join(fused)} is fused into the weights; call unfuse_lora first")
        self._check_known(list(chosen))
        chosen = {name: self._checked_weight(name, weight) for name, weight in chosen.items()}
        with self._changing():
            self._rest_only([])
            if chosen:
                super().set_adapters(list(chosen), list(chosen.values()))
            else:
                self._activate([])

    def _checked_weight(self, name: str, weight: Any) -> Any:
        """A weight as diffusers takes it.

        Raises:
            ValueError: a component or a layer that this LoRA has not.
        """
        if not isinstance(weight, dict):
            return weight
        with_it = [component for component, names in self.get_list_adapters().items() if name in names]
        if unknown := [key for key in weight if key not in with_it]:
            raise ValueError(
                f"adapter_weights of {name!r} names {', '.join(map(str, unknown))}; it is in {', '.join(with_it)}"
            )
        parts = self._parts()
        return {key: layer_weights(parts[key], name, w) if isinstance(w, dict) else w for key, w in weight.items()}

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Remove style LoRA; what they were on is as before they were loaded, but for what was fused.

        Raises:
            ValueError: "piflow" is among the names.
        """
        names = _as_list(adapter_names)
        _refuse_own(names, "unload_lora_weights removes all other LoRA")
        active = [name for name in self._styles() if name not in names]
        with self._changing():
            self._rest_only([name for name in self._resting or () if name not in names])
            super().delete_adapters(names)
            for part in self._parts().values():
                unwrap_empty(part)
            for scales in self._fused.values():
                for name in names:
                    scales.pop(name, None)  # as in diffusers, what is fused stays in the weights
            self._activate(active)

    def unload_lora_weights(self, reset_to_overwritten_params: bool = False) -> None:  # noqa: ARG002
        """Remove every style LoRA, never the student's own; nothing else was overwritten that could be reset."""
        self._resting = None
        self.delete_adapters(sorted(self._known() - {ADAPTER}))

    def disable_lora(self) -> None:
        """Switch the style LoRA off until `enable_lora`; the student and what is fused stay."""
        with self._changing():
            if self._resting is None:
                self._resting = self._styles()

    def enable_lora(self) -> None:
        """Switch the style LoRA on again that `disable_lora`, or the transformer's own method, switched off."""
        with self._changing():
            resting, self._resting = self._resting, None
            if resting is not None:
                self._activate(resting)

    def fuse_lora(
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
    ) -> None:
        """Add style LoRA to the weights below; the student's own LoRA is not fused and works on.

        Args: as diffusers' method: without components the transformer, without names the active style LoRA. The half
            of a style that is in a component which is not fused stays active beside it.

        Raises:
            ValueError: an unknown component, an unknown, own or fused name, or weights that offloading has moved away.
        """
        components = self._checked_components([TRANSFORMER] if components is None else components)
        names = self._styles() if adapter_names is None else list(adapter_names)
        _refuse_own(names, "it stays beside the weights, so that style LoRA can be fused and unfused below it")
        self._check_known(names)
        parts = {name: part for name, part in self._parts().items() if name in components}
        for component, part in parts.items():
            if done := [name for name in names if name in self._fused.get(component, {})]:
                raise ValueError(f"{', '.join(done)} is fused already")
            _check_in_place(part)
        active = self._styles()
        with self._changing():
            for component, part in parts.items():
                scales = fuse(part, names, scale=lora_scale, safe=safe_fusing)
                self._fused[component] = self._fused.get(component, {}) | scales
            self._merged_adapters = self._merged_adapters | self._live()
            self._activate(active)

    def unfuse_lora(self, components: list[str] | None = None) -> None:
        """Take fused style LoRA out of the weights again, up to rounding, and make them active.

        Args:
            components: without them, whatever is fused.

        Raises:
            ValueError: an unknown component, or all that was fused has been unloaded since.
        """
        components = list(self._fused) if components is None else self._checked_components(components)
        gone = self._merged_adapters - self._live()
        if gone and not self._live():
            raise ValueError(f"{', '.join(sorted(gone))} was unloaded after it was fused; load the pipeline again")
        active, parts = self._styles(), self._parts()
        with self._changing():
            for component in components:
                scales = self._fused.pop(component, {})
                unfuse(parts[component], scales)
                active += scales
            self._merged_adapters = gone | self._live()
            self._activate(list(dict.fromkeys(active)))

    def enable_lora_hotswap(self, **kwargs: Any) -> None:
        """Refuse where the student has LoRA of its own: diffusers would pad every LoRA to one rank.

        Raises:
            ValueError: the student is an adapter.
        """
        if self._own_layers:
            raise ValueError("enable_lora_hotswap would pad the student's own LoRA too; swap style LoRA of equal rank")
        super().enable_lora_hotswap(**kwargs)

    def _checked_components(self, components: Sequence[str]) -> list[str]:
        if unknown := [name for name in components if name not in self._lora_loadable_modules]:
            raise ValueError(f"{', '.join(unknown)} carries no LoRA; one of {', '.join(self._lora_loadable_modules)}")
        return list(components)


def _check_in_place(part: nn.Module) -> None:
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    if any(p.is_meta for p in part.parameters()) or _is_group_offload_enabled(part):
        raise ValueError("offloading has moved the weights away; fuse LoRA before it is enabled")


def _as_list(names: list[str] | str) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _refuse_own(names: Sequence[str | None], advice: str) -> None:
    if ADAPTER in names:
        raise ValueError(f"{ADAPTER!r} is the student's own LoRA; {advice}")
