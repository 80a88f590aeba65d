"""A run folder that becomes read-only while a run goes on: it ends in words, and goes on once it may be written."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from piflow_cli.engine.distill.resume.run_folder import RunFolder

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
OPTIONS = ("--preset", "digits-1nfe", "--device", "cpu", "--batch-size", "2", "--out", "run")
SETS = ("training.preview_every=0", "training.checkpoint_every=40")
"""Some 20 checkpoints a second would hide which write failed; one every 40 steps comes soon enough."""


def mind_permissions() -> None:
    """Take from the program that is about to start what lets root write where the file's mode forbids it."""
    if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_CAPBSET_DROP")


def can_mind_permissions(folder: Path) -> bool:
    """Whether a program can be started here that is refused what a file's mode refuses."""
    folder.chmod(0o555)
    line = [sys.executable, "-c", f"open({str(folder / 'x')!r}, 'w')"]
    try:
        return subprocess.run(line, preexec_fn=mind_permissions, capture_output=True, check=False).returncode != 0
    except (OSError, subprocess.SubprocessError):
        return False
    finally:
        folder.chmod(0o755)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where a run may be made read-only; it is writable again afterwards."""
    (tmp_path / "probe").mkdir()
    if sys.platform != "linux" or not can_mind_permissions(tmp_path / "probe"):
        pytest.skip("programs started here may write everywhere, whatever the mode of a file")
    yield tmp_path
    set_writable(tmp_path, wanted=True)


def set_writable(folder: Path, *, wanted: bool) -> None:
    for path in sorted((folder, *folder.rglob("*")), key=lambda path: len(path.parts), reverse=not wanted):
        if not path.name.startswith("."):
            path.chmod((0o755 if path.is_dir() else 0o644) if wanted else (0o555 if path.is_dir() else 0o444))


def start(place: Path, *, steps: int = 3000) -> subprocess.Popen[str]:
    sets = [word for text in SETS for word in ("--set", text)]
    line = [sys.executable, "-m", "piflow_cli", "distill", *OPTIONS, *sets, "--steps", str(steps)]
    return subprocess.Popen(
        line, cwd=place, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=mind_permissions
    )


@pytest.mark.slow
@pytest.mark.parametrize("part", [".", "checkpoints", "student"])
def test_a_folder_made_read_only_ends_a_run_in_words_and_its_checkpoints_stay(place: Path, part: str) -> None:
    run = place / "run"
    process = start(place)
    deadline = time.monotonic() + 240
    while RunFolder(run).checkpoints.newest_step() < 40 or not (run / "student" / "student.json").exists():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline, "no checkpoint in four minutes"
        time.sleep(0.1)
    if part == ".":
        set_writable(run, wanted=False)
    else:  # what takes its place is written beside it
        (run / part if part == "checkpoints" else run).chmod(0o555)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 1, errors[-2000:]
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: cannot write"), errors[-2000:]
    assert "Permission denied" in last
    assert str(run.name) in last
    assert "bug" not in errors
    assert "Traceback" not in errors
    set_writable(run, wanted=True)
    kept = RunFolder(run).checkpoints.newest_step()
    assert kept >= 40
    again = start(place, steps=kept + 2)
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors[-2000:]
    assert f"resumed from step {kept}" in errors


@pytest.mark.slow
def test_a_folder_that_is_read_only_from_the_start_is_refused_before_anything_is_loaded(place: Path) -> None:
    (place / "run").mkdir(mode=0o555)
    process = start(place)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("error: cannot write to run: Permission denied")
