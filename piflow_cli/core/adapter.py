"""A student beside its teacher in one module: LoRA on a frozen base (arXiv 2106.09685), and modules in two versions.

The base weights exist once. Switched to the teacher, LoRA is off and the replaced modules are the teacher's own;
switched to the student, LoRA is on and the replaced ones are the student's.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.settings import Settings
from piflow_cli.errors import ModelError

ADAPTER = "piflow"
"""Name of the student's own LoRA among those that a module may carry."""
STUDENT = "student"
"""Name of the student's version inside a `TwoSided` module."""
LORA_KEYS = re.compile(r"\.lora_([AB])\.weight$")


class AdapterSettings(Settings):
    """LoRA on the frozen base; alpha equals the rank, as in the published adapters."""

    rank: int = Field(256, ge=1, le=4096, description="LoRA rank, and alpha")
    dropout: float = Field(0.05, ge=0, lt=1, description="LoRA dropout in training")
    targets: tuple[str, ...] | None = Field(
        None, description="layers that get LoRA, by the end of their names; unset: the published ones of the family"
    )


class TwoSided(nn.Module):
    """A module in two versions, of which one is called.

    Args:
        teacher: the frozen original.
        student: what replaces it.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        super().__init__()
        self.teacher, self.student = teacher, student
        self.as_teacher = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the version in charge returns."""
        return (self.teacher if self.as_teacher else self.student)(*args, **kwargs)


def add_lora(module: nn.Module, targets: Sequence[str], settings: AdapterSettings) -> None:
    """Inject LoRA, named `ADAPTER`, into linear layers of a diffusers module.

    Args:
        module: a diffusers model; it is changed. Its LoRA starts at zero effect.
        targets: full names of the layers.
        settings: rank and dropout.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.rank,
        lora_dropout=settings.dropout,
        target_modules=list(targets),
        init_lora_weights=True,
    )
    module.add_adapter(config, adapter_name=ADAPTER)


def chosen_targets(
    module: nn.Module, settings: AdapterSettings, published: Sequence[str], *, replaced: Sequence[str]
) -> list[str]:
    """Full names of the layers that get LoRA: those ending in the settings' targets, or the published ones.

    Args:
        module: the teacher's own.
        settings: its targets.
        published: full names by the published recipe.
        replaced: modules of which the student has its own; LoRA on the teacher's would never be used.

    Raises:
        ModelError: a target that names no linear layer, or only such as are replaced.
    """
    if settings.targets is None:
        return list(published)
    linear = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and not any(name == own or name.startswith(f"{own}.") for own in replaced)
    ]
    chosen: dict[str, None] = {}
    for target in settings.targets:
        found = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not found:
            raise ModelError(
                f"adapter.targets: no linear layer of the teacher is called {target!r}, aside from those that students "
                f"train in full ({', '.join(replaced)})"
            )
        chosen |= dict.fromkeys(found)
    return list(chosen)


def split_sides(module: nn.Module, names: Sequence[str]) -> None:
    """Give submodules a trainable copy in float32 beside the frozen original."""
    for name in names:
        original = module.get_submodule(name)
        module.set_submodule(name, TwoSided(original, copy.deepcopy(original)))


class TeacherSwitch:
    """Turns an adapted module into its teacher and back by the flags of the parts concerned, which it finds once.

    A walk over the thousands of modules of a large transformer costs more than what a step asks of it. Parts are looked
    for again where peft has other adapters than then, or where one of them is no longer in its place.

    Args:
        module: a diffusers module with a student in it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._adapters: list[tuple[str, object]] | None = None
        self._layers: list[Placed] = []
        self._sides: list[Placed] = []

    @contextmanager
    def as_teacher(self) -> Iterator[None]:
        """Within the context the module computes what it did before it was adapted."""
        if self._is_stale():
            self._find()
        layers = [(place.part, place.part.disable_adapters) for place in self._layers]
        sides = [(place.part, place.part.as_teacher) for place in self._sides]
        # The flag alone: `enable_adapters` would also walk every layer's weights to change which of them train.
        for layer, _ in layers:
            layer._disable_adapters = True
        for side, _ in sides:
            side.as_teacher = True
        try:
            yield
        finally:
            for layer, before in layers:
                layer._disable_adapters = before
            for side, before in sides:
                side.as_teacher = before

    def _is_stale(self) -> bool:
        """Whether adapters came or went, or a part was replaced."""
        if self._adapters is None:
            return True
        adapters = list(self.module.peft_config.items())
        same = len(adapters) == len(self._adapters) and all(
            name == then and config is known
            for (name, config), (then, known) in zip(adapters, self._adapters, strict=True)
        )
        return not same or not all(place.holds() for place in (*self._layers, *self._sides))

    def _find(self) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        self._adapters = list(self.module.peft_config.items())
        places = [
            Placed(parent, name, part) for parent in self.module.modules() for name, part in parent._modules.items()
        ]
        self._layers = [place for place in places if isinstance(place.part, BaseTunerLayer)]
        self._sides = [place for place in places if isinstance(place.part, TwoSided)]


class Placed(NamedTuple):
    """A part of a module, and where it is."""

    parent: nn.Module
    name: str
    part: Any

    def holds(self) -> bool:
        """Whether the part is still there."""
        return self.parent._modules.get(self.name) is self.part


def stored_name(name: str) -> str | None:
    """The name a parameter of an adapted module has in a stored student, None where it is the base's own."""
    if f".lora_A.{ADAPTER}." in name or f".lora_B.{ADAPTER}." in name:
        return name.replace(f".{ADAPTER}.", ".")
    if f".{STUDENT}." in name:
        return name.replace(f".{STUDENT}.", ".")
    return None


def base_name(name: str) -> str | None:
    """The name that a parameter of an adapted module has in its base; None for LoRA, the original of a trained copy."""
    if ".lora_" in name:
        return None
    return name.replace(".base_layer.", ".").replace(".teacher.", ".").replace(f".{STUDENT}.", ".")


def lora_layout(weights: dict[str, Tensor], *, source: object) -> tuple[int, list[str]]:
    """The rank, and the names of the layers, of LoRA weights named `LAYER.lora_A.weight` and `LAYER.lora_B.weight`.

    Raises:
        ModelError: no LoRA, a half without the other, or several ranks.
    """
    down = {LORA_KEYS.sub("", name): tensor.shape[0] for name, tensor in weights.items() if ".lora_A." in name}
    up = {LORA_KEYS.sub("", name): tensor.shape[1] for name, tensor in weights.items() if ".lora_B." in name}
    if not down:
        raise ModelError(f"{source} holds no LoRA weights (LAYER.lora_A.weight)")
    if down != up:
        layer = next(name for name in [*down, *up] if down.get(name) != up.get(name))
        raise ModelError(f"{source}: lora_A and lora_B of {layer} do not belong together")
    if len(set(down.values())) > 1:
        raise ModelError(f"{source} mixes LoRA ranks {sorted(set(down.values()))}; one rank can be read")
    return next(iter(down.values())), list(down)


def _kind(tensor: Tensor) -> str:
    """How a quantised tensor is called: by its class, or by its dtype where it has none of its own."""
    return str(tensor.dtype) if type(tensor) is Tensor else type(tensor).__name__


@torch.no_grad()
def merged_weights(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of an adapted module as if every weight were its own: LoRA added to the base.

    Returns: tensors by the names of the plain module with the head in the place of its projection.

    Raises:
        ModelError: a quantised base, which cannot take LoRA without another rounding.
    """
    from peft.tuners.lora import LoraLayer

    layers = {name: part for name, part in module.named_modules() if isinstance(part, LoraLayer)}
    weights = {}
    for name, parameter in module.named_parameters():
        if ".lora_" in name or ".teacher." in name:
            continue
        plain = name.replace(f".{STUDENT}.", ".").replace(".base_layer.", ".")
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        tensor = parameter.detach()
        if layer is not None and name.endswith(".base_layer.weight"):
            if not tensor.is_floating_point() or type(tensor) is not Tensor:  # some libraries subclass Tensor
                raise ModelError(f"{plain} is quantised ({_kind(tensor)}); LoRA is merged into unquantised bases only")
            tensor = (tensor.float() + layer.get_delta_weight(ADAPTER).float()).to(tensor.dtype)
        weights[plain] = tensor
    return weights
