"""The memory benchmark at a size that takes no time."""

from queue import Queue

import pytest

from piflow_cli.speed.sharing import measure


@pytest.mark.parametrize("shared", [True, False])
def test_step_runs_and_reports(shared: bool) -> None:
    results: Queue = Queue()
    measure(shared, 64, 1, results)
    base, own, peak = results.get_nowait()
    assert 0 < own < base
    assert peak > 4 * base
