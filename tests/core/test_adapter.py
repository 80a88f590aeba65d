"""Which layers get LoRA: never those of which a student has its own."""

import pytest
from torch import nn

from piflow_cli.core.adapter import AdapterSettings, chosen_targets
from piflow_cli.errors import ModelError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.proj_out, self.norm = nn.Linear(2, 2), nn.Linear(2, 2), nn.LayerNorm(2)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm_out = nn.Sequential(nn.SiLU(), nn.Linear(2, 2))
        self.proj_out = nn.Linear(2, 2)


def chosen(*targets: str) -> list[str]:
    settings = AdapterSettings(targets=targets or None)
    return chosen_targets(Network(), settings, ["blocks.0.to_q"], replaced=("norm_out", "proj_out"))


def test_unset_targets_are_the_published_ones() -> None:
    assert chosen() == ["blocks.0.to_q"]


def test_targets_are_ends_of_names_and_leave_out_what_students_replace() -> None:
    assert chosen("proj_out", "to_q") == ["blocks.0.proj_out", "blocks.1.proj_out", "blocks.0.to_q", "blocks.1.to_q"]
    assert chosen("blocks.1.to_q") == ["blocks.1.to_q"]


@pytest.mark.parametrize("target", ["norm_out.1", "norm", "q"])
def test_targets_without_a_layer_are_named(target: str) -> None:
    with pytest.raises(ModelError, match=rf"called '{target}', aside from .*norm_out, proj_out"):
        chosen(target)
