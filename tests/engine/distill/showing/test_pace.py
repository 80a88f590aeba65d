"""The time that is left: by recent steps, and with what comes between steps."""

import time

import pytest

from piflow_cli.engine.distill.showing.pace import RECENT_STEPS, Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, in a list that a test changes."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def take(pace: Pace, clock: list[float], *seconds: float) -> None:
    for step_s in seconds:
        clock[0] += step_s
        pace.step()


def test_the_first_step_counts_only_while_it_is_the_only_one(clock: list[float]) -> None:
    pace = Pace(10)
    take(pace, clock, 60.0)
    assert (pace.step_s, pace.remaining_s(1)) == (60.0, 540.0)
    take(pace, clock, 2.0, 4.0)
    assert (pace.step_s, pace.remaining_s(3)) == (3.0, 21.0)


def test_the_estimate_follows_recent_steps(clock: list[float]) -> None:
    pace = Pace(1000)
    take(pace, clock, *[1.0] * 100, *[5.0] * RECENT_STEPS)
    assert pace.step_s == 5.0
    assert pace.wall_s == 100 + 5 * RECENT_STEPS


def test_what_comes_between_steps_is_no_step_and_comes_again(clock: list[float]) -> None:
    pace = Pace(10)
    take(pace, clock, 1.0, 1.0, 1.0, 1.0)
    with pace.pause("preview", every=4):
        clock[0] += 30.0
    take(pace, clock, 1.0)
    assert pace.step_s == 1.0
    assert pace.remaining_s(5) == 5 + 2 * 30  # after steps 8 and 10
