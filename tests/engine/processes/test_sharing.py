"""One request of sampling, measuring or caching, shared by two processes and started as users start them.

One thread to a process, alone or beside another: sums of a network are rounded by how threads part them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_judges import save_clip
from tiny_models import PARITY

TWO = ("--num-processes", "2", "--device", "cpu")
ENDS_WITHIN_S = 60
PLACES = {"network_s", "policy_s", "num_processes", "path", "paths", "drawn_on"}
"""What of a result tells how it was made, not what it is."""


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")} | {"OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "piflow_cli", *map(str, arguments)]


def started(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = command(*arguments)
    return subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=240, check=False, cwd=cwd)


def lasting(value: Any) -> Any:
    """A result without what depends on who made it."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in PLACES}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


METRICS = ("kid", "is", "precision-recall", "diversity")
SAMPLES = {
    "digits": ("3", "7", "3", "--model", "digits-2nfe", "--num-images", "3", "--batch-size", "2"),
    "emoji": ("a cat", "a red heart", "--nfe", "4", "--num-images", "3", "--batch-size", "2", "--h", "0.5"),
    "beside": ("a cat", "a red heart", "--model", "emoji-1nfe", "--beside", "teacher@2", "--batch-size", "1"),
    "teacher": ("3", "7", "--model", "digits-2nfe", "--teacher", "--steps", "3", "--batch-size", "1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLES)
def test_two_processes_draw_the_pictures_of_one(tmp_path: Path, kind: str) -> None:
    """Byte by byte, under the same names, and told once and in the same order."""
    line = ("sample", *SAMPLES[kind], "--json", "--out")
    alone = started(*line, "one", "--device", "cpu", cwd=tmp_path)
    both = started(*line, "two", *TWO, cwd=tmp_path)
    assert (alone.returncode, both.returncode) == (0, 0), both.stderr
    expected, found = json.loads(alone.stdout), json.loads(both.stdout)
    assert lasting(found) == lasting(expected)
    assert [Path(path).name for path in found.get("paths", ())] == [
        Path(path).name for path in expected.get("paths", ())
    ]
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        ("--model", "digits-1nfe", *(f"--metric={name}" for name in METRICS), "--teacher-steps", "1,2"),
        ("--model", "emoji-2nfe", "--h", "0.5", "--teacher-steps", "none"),
    ],
    ids=["digits", "emoji"],
)
def test_two_processes_have_the_scores_of_one(tmp_path: Path, what: tuple[str, ...]) -> None:
    clip = save_clip(tmp_path / "clip")  # pictures and prompts go to it in the order that they were drawn in
    own = ("--metric", f"vendi={clip}", *(("--metric", f"clip-score={clip}") if "emoji-2nfe" in what else ()))
    line = ("benchmark", *what, *own, "--metric", "fid", "--samples", "70", "--batch-size", "16", "--json", "-")
    alone = started(*line, "--device", "cpu", "--no-cache", cwd=tmp_path)
    both, again = started(*line, *TWO, cwd=tmp_path), started(*line, *TWO, cwd=tmp_path)
    assert (alone.returncode, both.returncode, again.returncode) == (0, 0, 0), both.stderr + again.stderr
    assert lasting(json.loads(both.stdout)) == lasting(json.loads(alone.stdout)) == lasting(json.loads(again.stdout))
    assert json.loads(both.stdout)["num_processes"] == 2
    teachers = [row for row in json.loads(again.stdout)["rows"] if row["kind"] == "teacher"]
    assert all(row["drawn_on"] is not None for row in teachers)


@pytest.mark.slow
def test_two_processes_fill_the_cache_of_one(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red cat\nblue dog\nthe house\n")
    settings = {"teacher.source": PARITY / "e2e_flux" / "pipeline", "teacher.max_sequence_length": 12}
    settings |= {"teacher.width": 48, "teacher.height": 64, "data.path": tmp_path / "prompts.txt"}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    line = ("distill", "--preset", "flux-4nfe-datafree", "--cache-only", "--json", *sets)
    alone = started(*line, "--device", "cpu", "--set", f"data.cache={tmp_path / 'one'}", cwd=tmp_path)
    both = started(*line, *TWO, "--set", f"data.cache={tmp_path / 'two'}", cwd=tmp_path)
    assert (alone.returncode, both.returncode) == (0, 0), both.stderr
    report = json.loads(both.stdout)
    assert (report["num_prompts"], report["built"] + report["kept"] + report["shared"]) == (3, 1)
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("sample", "ninety-nine", "--model", "digits-1nfe"), "ninety-nine"),
        (("sample", "--prompts", "none.txt"), "none.txt"),
        (("benchmark", "--metric", "fid", "--model", "no-such-student"), "no-such-student"),
        (("benchmark", "--metric", "fid", "--samples", "1"), "samples is 1"),
        (("benchmark", "--metric", "fid", "--prompts", "none.txt"), "none.txt"),
        (("distill", "--preset", "dit-1nfe", "--set", "data.path=/none", "--out", "run"), "/none"),
    ],
)
def test_an_error_that_all_have_is_said_once(tmp_path: Path, line: tuple[str, ...], words: str) -> None:
    ended = started(*line, *TWO, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.count("error:") == 1, ended.stderr
    assert words in ended.stderr
    assert "rank 0 of 2: " in ended.stderr
    assert not ended.stdout


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all_and_what_was_drawn_is_kept(tmp_path: Path) -> None:
    line = command("sample", "3", "--model", "digits-2nfe", "--num-images", 100_000, "--out", tmp_path / "out", *TWO)
    process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
    begun = time.monotonic()
    while not (tmp_path / "out").exists() or len(list((tmp_path / "out").glob("*.png"))) < 200:
        assert time.monotonic() - begun < 120
        time.sleep(0.1)
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    killed = time.monotonic()
    _, said = process.communicate(timeout=2 * ENDS_WITHIN_S)
    assert time.monotonic() - killed < ENDS_WITHIN_S
    assert process.returncode == 1
    assert "rank 1 was ended by SIGKILL" in said
    assert "checkpoint" not in said
    assert "Traceback" not in said


def rank_of(launcher: int, rank: int) -> int:
    """The process id of a rank."""
    import psutil

    children = psutil.Process(launcher).children(recursive=True)
    return next(child.pid for child in children if child.environ().get("RANK") == str(rank))
