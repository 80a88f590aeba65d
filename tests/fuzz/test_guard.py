"""The harness finds what it looks for: every kind of fault, planted, is reported as what it is, and nothing else is."""

import os
import pickle
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import campaign, canary, damage, guard
from fuzz.targets import TARGETS
from fuzz.worker import rng_of
from piflow_cli.errors import DataError

ROOT = Path(__file__).parents[2]
PLANTED = """
    import os, pickle, resource, signal, subprocess, sys, tempfile, time
    from pathlib import Path
    from fuzz import canary, guard
    from piflow_cli.errors import DataError

    guard.SECONDS = 0.5
    guard.install()
    root = Path(sys.argv[1])
    (root / "out").mkdir()

    def hang():
        os.mkfifo(root / "out" / "pipe")
        open(root / "out" / "pipe").read()

    def known(words):
        raise DataError(words)

    cases = {
        "well": lambda: (root / "out" / "x").write_text("x"),
        "known": lambda: known("a known error"),
        "unknown": lambda: {}["key"],
        "hang": hang,
        "write": lambda: (root / "elsewhere").write_text("x"),
        "climb": lambda: (root / "out" / ".." / "elsewhere").write_text("x"),
        "program": lambda: subprocess.run(["true"]),
        "pickle": lambda: pickle.loads(pickle.dumps(canary.Egg())),
        "memory": lambda: bytearray(3 * 2**30),
        "hidden memory": lambda: known("Unable to allocate 8 GiB"),
    }
    guard.limit_memory()
    for name, case in cases.items():
        with guard.watched(root / "out") as watch:
            fault, said, _, _ = guard.fault_of(case, (DataError,))
        print(name, "|", fault or "; ".join(watch.seen) or None, "|", (root / "elsewhere").exists())
"""
EXPECTED = {
    "well": "None",
    "known": "None",
    "unknown": "unknown: KeyError: 'key'",
    "hang": "hang: more than 0.5 s",
    "write": "writes ",
    "climb": "writes ",
    "program": "subprocess.Popen ",
    "pickle": "code was run: unpickled",
    "memory": "memory: MemoryError",
    "hidden memory": "memory: Unable to allocate",
}


def test_every_planted_fault_is_reported_and_no_write_elsewhere_happens(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PLANTED), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = {line.split(" | ")[0]: line.split(" | ")[1:] for line in ended.stdout.splitlines()}
    assert found.keys() == EXPECTED.keys()
    for name, words in EXPECTED.items():
        assert found[name][0].startswith(words), (name, found[name])
        assert found[name][1] == "False"


def test_a_child_that_dies_or_hangs_is_a_fault_and_the_next_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by lines as a child writes them, so that nothing has to be waited for."""
    script = """
        import json, sys, time
        parts = json.loads(sys.stdin.read())["parts"]
        for name, first, last in parts:
            print(json.dumps({"target": name, "ready": None, "seconds": 0.0}), flush=True)
            for number in range(first, last):
                print(json.dumps({"target": name, "begins": number}), flush=True)
                if number == 2:
                    sys.exit(3)
                if number == 4:
                    time.sleep(60)
                print(json.dumps({"target": name, "case": number, "fault": None, "said": "well", "seconds": 0.1,
                                  "what": ""}), flush=True)
    """
    popen = subprocess.Popen
    monkeypatch.setattr(
        campaign.subprocess,
        "Popen",
        lambda _, **options: popen([sys.executable, "-c", textwrap.dedent(script)], **options),
    )
    monkeypatch.setattr(campaign, "SILENCE", 1)
    report = campaign.run([("preset", 1, 7)], seed=0)
    assert report.cases == 6
    assert [(fault["case"], fault["said"]) for fault in report.faults] == [(2, "died"), (4, "died")]


def test_a_case_is_the_same_whenever_it_is_run(tmp_path: Path) -> None:
    for name in ("preset", "prompts", "picture"):
        seen = []
        for turn in range(2):
            folder = tmp_path / f"{name}-{turn}"
            folder.mkdir()
            TARGETS[name].build(folder)
            what = TARGETS[name].attack(rng_of(3, name, 5), folder)
            seen.append((what, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}))
        assert seen[0] == seen[1]


def test_every_target_has_its_share() -> None:
    assert TARGETS.keys() == campaign.SHARES.keys()
    parts = campaign.shares(20_000)
    assert sum(last - first for _, first, last in parts) >= 19_990


@pytest.mark.parametrize("suffix", sorted(damage.BY_SUFFIX.keys() - {".tar", ".npz"}))
def test_damage_changes_what_it_is_given(suffix: str, tmp_path: Path) -> None:
    content = {".toml": b"a = 1\nb = 2\n", ".json": b'{"a": [1, 2]}'}.get(suffix, b"one\ntwo\nthree\n")
    for number in range(20):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        damage.file(random.Random(number), path)
    assert sum(path.read_bytes() != content for path in tmp_path.iterdir()) >= 10


def test_the_canary_sings() -> None:
    canary.SUNG.clear()
    pickle.loads(damage.pickled())
    assert canary.SUNG == ["unpickled"]


def test_the_innermost_places_of_piflow_are_named() -> None:
    from piflow_cli.io.bounds import bounded_json

    def run() -> None:
        bounded_json(3)  # type: ignore[arg-type]

    fault, said, _, seconds = guard.fault_of(run, (DataError,))
    assert said == "TypeError"
    assert "io/bounds.py:" in (fault or "")
    assert seconds < 1


def _slow(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def test_time_of_a_case_is_counted() -> None:
    assert guard.fault_of(_slow(0.05), ())[3] >= 0.05
