"""Some kills of a run of two processes; `python -m piflow_cli.speed.kills` does thirty."""

import random
import signal
from pathlib import Path

import pytest

from piflow_cli.speed.kills import disturb, draw


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_student(tmp_path: Path) -> None:
    kills, report = disturb(tmp_path, kills=3, processes=2, strategy="fsdp2", steps=30, seed=7)
    assert len(kills) == 3
    assert all(kill.ended_s < 60 for kill in kills)
    assert report.is_zero, report.differences


def test_kills_are_of_all_kinds() -> None:
    dice = random.Random(0)
    blows = [draw(dice, processes=2) for _ in range(100)]
    assert {blow.number for blow in blows} == {signal.SIGKILL, signal.SIGTERM}
    assert {blow.target for blow in blows} == {"0", "1", "launcher", "all"}
    assert 10 < sum(blow.steps == 0 for blow in blows) < 30
