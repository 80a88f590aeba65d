"""Turning an adapted module into its teacher and back: by flags of parts that are found once."""

from collections.abc import Iterator

import pytest
import torch
from peft import LoraConfig
from tiny_pipelines import pipeline
from torch import Tensor, nn

from piflow_cli.core.adapter import TeacherSwitch, TwoSided


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The roots of walks over all modules."""
    found: list[nn.Module] = []
    modules = nn.Module.modules

    def counted(self: nn.Module) -> Iterator[nn.Module]:
        found.append(self)
        return modules(self)

    monkeypatch.setattr(nn.Module, "modules", counted)
    return found


def add_style(module: nn.Module, name: str, target: str) -> None:
    """A LoRA of some effect beside the student's own, both in use."""
    module.add_adapter(LoraConfig(r=2, target_modules=[target], init_lora_weights=False), adapter_name=name)
    module.set_adapter(["piflow", name])


def flags(module: nn.Module) -> dict[str, bool]:
    """What says which side is in charge, of every part that has it."""
    parts = dict(module.named_modules())
    lora = {name: part._disable_adapters for name, part in parts.items() if hasattr(part, "_disable_adapters")}
    return lora | {name: part.as_teacher for name, part in parts.items() if isinstance(part, TwoSided)}


@pytest.mark.parametrize("family", ["flux", "qwen"])
def test_all_parts_are_switched_and_switched_back_with_one_walk(family: str, walks: list[nn.Module]) -> None:
    module = pipeline(family).transformer
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    switch = TeacherSwitch(module)
    with switch.as_teacher():
        assert all(flags(module).values())
    walks.clear()
    for _ in range(3):
        with switch.as_teacher():
            pass
    assert walks == []
    assert len(flags(module)) > 4
    assert not any(flags(module).values())
    assert {name for name, p in module.named_parameters() if p.requires_grad} == trained


def test_adapters_that_come_and_go_are_switched_too() -> None:
    module = pipeline("flux").transformer
    switch = TeacherSwitch(module)
    with switch.as_teacher():
        before = len(flags(module))
    for target in ("attn.to_q", "attn.to_k"):  # the same name, other layers
        add_style(module, "style", target)
        with switch.as_teacher():
            assert len(flags(module)) > before
            assert all(flags(module).values())
        module.delete_adapters("style")


def test_a_part_that_was_replaced_is_found_again() -> None:
    module = pipeline("flux").transformer
    switch = TeacherSwitch(module)
    with switch.as_teacher():
        pass
    old = module.proj_out
    module.proj_out = TwoSided(old.teacher, old.student)
    with switch.as_teacher():
        assert module.proj_out.as_teacher
        assert not old.as_teacher


def test_within_itself_and_after_an_error_it_leaves_what_was() -> None:
    module = pipeline("flux").transformer
    switch = TeacherSwitch(module)
    with switch.as_teacher():
        with pytest.raises(RuntimeError), switch.as_teacher():
            raise RuntimeError
        assert all(flags(module).values())
    assert not any(flags(module).values())


def test_lora_that_was_off_stays_off() -> None:
    module = pipeline("flux").transformer
    module.disable_adapters()
    with TeacherSwitch(module).as_teacher():
        pass
    lora = [part for part in module.modules() if hasattr(part, "_disable_adapters")]
    assert all(part.disable_adapters for part in lora)


def test_the_teacher_is_what_the_module_was() -> None:
    x: Tensor = torch.ones(1, 3)
    side = TwoSided(nn.Linear(3, 2), nn.Linear(3, 2))
    module = nn.ModuleDict({"side": side})
    module.peft_config = {}
    assert torch.equal(side(x), side.student(x))
    with TeacherSwitch(module).as_teacher():
        assert torch.equal(side(x), side.teacher(x))
