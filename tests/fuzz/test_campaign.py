"""What piflow reads, attacked: a sample of the cases in every run of the tests, all of them where asked for."""

import os

import pytest

from fuzz import campaign

NUM_CASES = 20_000
SAMPLE = 500
WANTED = "PIFLOW_FUZZ"
"""The environment variable that asks for all cases."""


def told(report: campaign.Report) -> str:
    """The faults, and how to run the first of each kind again."""
    return "\n".join(f"{number} x {first}: {words}" for number, first, words in report.kinds())


def test_a_sample_of_the_cases_finds_no_fault() -> None:
    parts = [part for part in campaign.shares(SAMPLE) if part[0] not in ("run", "manifest", "resume", "base", "style")]
    report = campaign.run(parts, seed=2)
    assert not report.faults, told(report)
    assert report.cases >= SAMPLE * 0.8


@pytest.mark.slow
@pytest.mark.skipif(WANTED not in os.environ, reason=f"takes a quarter of an hour and more: set {WANTED}=1")
def test_all_cases_find_no_fault() -> None:
    report = campaign.run(campaign.shares(NUM_CASES + 20), seed=1)
    assert not report.faults, told(report)
    assert report.cases >= NUM_CASES
    assert report.slowest[0] < 20
