"""What a run says: its first lines, rates that can be read, and never nothing for long."""

import re
import threading
import time
from pathlib import Path

import pytest
from cli_runner import run

from piflow_cli.cli import console
from piflow_cli.io.texts.amounts import pace


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (812.4, "812 images/s"),
        (9.94, "9.9 images/s"),
        (1.0, "1.0 images/s"),
        (0.25, "4 s/image"),
        (0.004, "250 s/image"),
    ],
)
def test_rates_have_digits_that_matter(rate: float, words: str) -> None:
    assert pace(rate) == words


def test_what_takes_long_is_named_until_something_else_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SILENT_AT_MOST_S", 0.5)
    monkeypatch.setattr(console, "LONG_S", 0.5)
    line, stop = console.ProgressLine(None), threading.Event()
    thread = threading.Thread(target=line.keep_saying, args=(stop,))
    thread.start()
    line.busy("drawing the preview of step 8")
    time.sleep(2.5)
    line.update(9, 10, "step 9/10")
    stop.set()
    thread.join()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "drawing the preview of step 8, 1s so far"
    assert said[-1] == "step 9/10"


def test_short_steps_are_told_by_their_own_lines_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SILENT_AT_MOST_S", 0.5)
    line, stop = console.ProgressLine(None), threading.Event()
    line.update(1, 100, "step 1/100")
    thread = threading.Thread(target=line.keep_saying, args=(stop,))
    thread.start()
    for step in range(2, 12):  # a step is done long before the watch would call it long
        time.sleep(0.25)
        line.update(step, 100, f"step {step}/100", then=f"taking step {step + 1}")
    stop.set()
    thread.join()
    assert capsys.readouterr().err.splitlines() == ["step 1/100"]


def test_the_first_lines_say_who_trains_what_on_how_much(tmp_path: Path) -> None:
    settings = ("training.batch_size=4", "training.preview_every=3", "training.preview_images=2", "training.steps=4")
    sets = [part for setting in settings for part in ("--set", setting)]
    ended = run("distill", "-p", "digits-1nfe", *sets, "--device", "cpu", "--out", "run", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("1 process; batch 4 = 1 x 4; cpu, "))
    assert lines[start + 1 : start + 4] == [
        "data       1,797 pictures; 4 steps of 4",
        "previews   run/previews, every 3 steps",
        "saved      run/checkpoints, every 200 steps",
    ]
    assert re.search(
        r"^time       about \d+s for the 1 steps to come, at [\d.]+ (images/s|s/image)$", ended.stderr, re.M
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is, in a list that a test changes."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_time_left_is_reckoned_from_where_the_job_begins(clock: list[float]) -> None:
    countdown = console.Countdown()
    clock[0] += 60  # loading
    assert countdown.words("a row", 0, 40) == "a row"
    clock[0] += 5
    assert countdown.words("a row", 10, 40) == "a row  15s left"
    clock[0] += 5
    assert countdown.words("another", 20, 40) == "another  10s left"
    assert countdown.words("another", 40, 40) == "another  0s left"


def test_what_an_earlier_run_did_says_nothing_of_the_pace(clock: list[float]) -> None:
    countdown = console.Countdown()
    assert countdown.words("prompts", 900, 1000) == "prompts"
    clock[0] += 10
    assert countdown.words("prompts", 950, 1000) == "prompts  10s left"


def test_a_job_that_begins_before_its_first_report_has_its_time_at_once(clock: list[float]) -> None:
    countdown = console.Countdown()
    countdown.begin()
    clock[0] += 8
    assert countdown.words("1/4 evaluations", 1, 4) == "1/4 evaluations  24s left"
