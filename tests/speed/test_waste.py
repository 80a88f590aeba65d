"""The figures of waste at sizes that take no time; the script tells times, which are not tested here."""

import sys
from collections.abc import Callable
from types import FrameType

from piflow_cli.speed.waste import measured_metric, micro_step, switches


def calls(action: Callable[[], object]) -> int:
    """How many functions are called, by an action that has been taken once."""
    action()
    count = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def test_a_data_free_micro_step_never_waits() -> None:
    crossed = micro_step(total_substeps=8)
    assert crossed.reads == []
    assert 0 < len(crossed.sends) <= 4 * 26


def test_products_and_plain_distances_give_the_same_scores() -> None:
    product_s, plain_s, same = measured_metric(60, 8)
    assert same
    assert product_s > 0
    assert plain_s > 0


def test_a_student_of_flux_depth_switches_by_flags_alone() -> None:
    """Some flags a layer with LoRA; a walk over all modules, as diffusers' own, calls twenty times as much."""
    deep, switch, walk = switches()
    assert sum(1 for _ in deep.module.modules()) > 2000
    assert calls(switch) < calls(walk) / 10
