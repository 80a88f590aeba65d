"""Which LoRA of a student act: its own always, and of the styles those that are chosen, fused or resting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from piflow_cli.core.adapter import ADAPTER
from piflow_cli.engine.pipelines.style.fusing import Scales
from piflow_cli.engine.pipelines.style.layers import (
    activate,
    carries,
    gradients_kept,
    hidden_by_fused_projections,
    lora_layers,
    own_acting,
)
from piflow_cli.engine.pipelines.style.weights import TRANSFORMER, said_of
from piflow_cli.errors import ModelError


@dataclass
class StyleRecord:
    """What was done with style LoRA on a transformer, which several pipelines may share.

    Args:
        fused: what can be unfused, by component.
        merged: names of what is fused, and of what was unloaded after it was.
        resting: style LoRA that is switched off, None where it is not.
    """

    fused: dict[str, Scales] = field(default_factory=dict)
    merged: set[str] = field(default_factory=set)
    resting: list[str] | None = None


class StyleState:
    """What is loaded and active in a LoRA pipeline of diffusers whose transformer is a student."""

    _own_layers: tuple[str, ...] = ()
    """Layers that carry the student's own LoRA."""

    def _remember_own_lora(self) -> None:
        """Note where the student's own LoRA is."""
        self._own_layers = tuple(name for name, layer in lora_layers(self._module).items() if carries(layer, ADAPTER))

    @property
    def _record(self) -> StyleRecord:
        """What was done to the transformer, whichever pipeline did it."""
        if not isinstance(getattr(self._module, "_piflow_styles", None), StyleRecord):
            self._module._piflow_styles = StyleRecord()
        return self._module._piflow_styles

    @property
    def _fused(self) -> dict[str, Scales]:
        """What can be unfused, by component."""
        return self._record.fused

    @property
    def _resting(self) -> list[str] | None:
        """Style LoRA that `disable_lora` switched off, None where it did not."""
        return self._record.resting

    @_resting.setter
    def _resting(self, names: list[str] | None) -> None:
        self._record.resting = names

    @property
    def _merged_adapters(self) -> set[str]:
        """What diffusers calls fused: `_fused`, and what was unloaded since."""
        return self._record.merged

    @_merged_adapters.setter
    def _merged_adapters(self, names: set[str]) -> None:
        self._record.merged = names

    def get_active_adapters(self) -> list[str]:
        """Names of all LoRA that act, the student's own ("piflow") first."""
        layers = [layer for part in self._parts().values() for layer in lora_layers(part).values()]
        return list(dict.fromkeys(name for layer in layers for name in layer.active_adapters))

    @contextmanager
    def _own_lora_acting(self) -> Iterator[None]:
        """Within the context the student's own LoRA acts, whatever was done to the transformer past this pipeline.

        Raises:
            ModelError: it was removed.
            ValueError: it, or style LoRA, would be left out: style was fused past this pipeline, or projections were.
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
        if hidden := hidden_by_fused_projections(self._module):
            raise ValueError(
                f"fuse_qkv_projections leaves out {said_of(hidden, 'layers with LoRA')}; call "
                "pipe.transformer.unfuse_qkv_projections()"
            )
        with own_acting(self._module):
            yield

    @property
    def _module(self) -> nn.Module:
        """The transformer itself, where it was compiled too."""
        return getattr(self.transformer, "_orig_mod", self.transformer)

    def _parts(self) -> dict[str, nn.Module]:
        """What may carry LoRA, by the component's name."""
        named = {name: getattr(self, name, None) for name in self._lora_loadable_modules} | {TRANSFORMER: self._module}
        return {name: part for name, part in named.items() if isinstance(part, nn.Module)}

    def _known(self) -> set[str]:
        return {name for names in self.get_list_adapters().values() for name in names}

    def _live(self) -> set[str]:
        """Style LoRA that is fused and can be unfused."""
        return {name for scales in self._fused.values() for name in scales}

    def _styles(self) -> list[str]:
        """Active style LoRA."""
        return [name for name in self.get_active_adapters() if name != ADAPTER]

    def _activate(self, names: Sequence[str]) -> None:
        """Make these style LoRA, and no others, active in every part where they are not fused."""
        for component, part in self._parts().items():
            live = [name for name in names if name not in self._fused.get(component, {})]
            for layer in lora_layers(part).values():
                layer.set_adapter(live)

    def _rest_only(self, names: list[str]) -> None:
        """Where `disable_lora` is in force, let it be for these style LoRA, and for those that become active."""
        self._resting = None if self._resting is None else names

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Changes of what is loaded or active; after them the own LoRA acts, and what is trained is so still."""
        with gradients_kept(self._parts().values()):
            try:
                yield
            finally:
                self._settle()

    def _settle(self) -> None:
        """Make the student's own LoRA active at 1 beside whatever is; what `disable_lora` switched off stays off."""
        if self._resting is not None:
            self._resting = list(dict.fromkeys([*self._resting, *self._styles()]))
            self._activate([])
        own = [ADAPTER] if self._own_layers else []
        halves = [] if self._resting is not None else sorted(self._live())
        for component, part in self._parts().items():
            first = own if component == TRANSFORMER else []
            beside = [name for name in halves if name not in self._fused.get(component, {})]
            for layer in lora_layers(part).values():
                others = [name for name in layer.active_adapters if name not in (*first, *beside)]
                activate(layer, [*first, *others, *beside])
                if first:
                    layer.set_scale(ADAPTER, 1.0)

    def _free_name(self) -> str:
        taken = self._known() | self._merged_adapters
        return next(name for i in range(len(taken) + 1) if (name := f"default_{i}") not in taken)

    def _check_known(self, names: Sequence[str]) -> None:
        if missing := [name for name in names if name not in (known := self._known())]:
            raise ValueError(f"no LoRA is called {', '.join(missing)}; there are {', '.join(sorted(known)) or 'none'}")
