"""Where output goes: any encoding, a pipe that is closed, no stdout at all, a full disk, a narrow terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PIFLOW = f"{sys.executable} -m piflow_cli"
ROOT = Path(__file__).parents[2]


def shell(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", command.replace("piflow ", f"{PIFLOW} ")],
        cwd=cwd,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_an_encoding_lacks_is_no_error(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "猫.toml").write_text('summary = "一只猫"\n')
    ended = shell("piflow presets check 猫.toml", tmp_path, PYTHONIOENCODING=encoding)
    assert ended.returncode == 1
    assert b".toml is not a valid preset" in ended.stderr
    shown = shell("piflow presets show digits-1nfe --set summary=一只猫", tmp_path, PYTHONIOENCODING=encoding)
    assert shown.returncode == 0
    cat = "一只猫".encode()  # for an ASCII stream click takes UTF-8
    assert (cat if encoding == "ascii" else b"\\u4e00\\u53ea\\u732b") in shown.stdout


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    for command in ("presets list", "presets list --json", "presets show digits-1nfe"):
        ended = shell(f"for i in 1 2 3; do piflow {command} | head -1; done", tmp_path)
        assert ended.stderr == b""
        assert len(ended.stdout.splitlines()) == 3


def test_no_stdout_at_all(tmp_path: Path) -> None:
    ended = shell("piflow presets list >&-", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert shell("piflow presets list 2>&-", tmp_path).returncode == 0
    assert shell("piflow presets check none.toml >&- 2>&-", tmp_path).returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    ended = shell("piflow presets list > /dev/full", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"error: the disk is full")
    assert b"Traceback" not in ended.stderr


def test_nothing_is_coloured_outside_a_terminal_and_narrow_ones_are_fine(tmp_path: Path) -> None:
    for variables in ({"NO_COLOR": "1"}, {"COLUMNS": "20"}, {"TERM": "dumb"}):
        for command in ("presets check none.toml", "presets list", "sample --help", "sample"):
            ended = shell(f"piflow {command}", tmp_path, **variables)
            assert b"\x1b" not in ended.stdout + ended.stderr
            assert b"Traceback" not in ended.stderr


def test_json_is_ascii(tmp_path: Path) -> None:
    ended = shell("piflow presets show digits-1nfe --set summary=一只猫 --json", tmp_path, PYTHONIOENCODING="cp1252")
    assert json.loads(ended.stdout)["summary"] == "一只猫"


@pytest.mark.parametrize("command", ["sample 3 --model digits-1nfe --out 3.png", "distill -p digits-1nfe --steps 1"])
def test_stderr_holds_no_line_of_a_library(command: str, tmp_path: Path) -> None:
    ended = shell(f"piflow {command} --device cpu", tmp_path, PYTHONWARNINGS="always")
    assert ended.returncode == 0, ended.stderr
    ours = ("warning: optimizer", "distilling ", "1 process;", "data ", "previews ", "saved ")
    ours += ("step 1", "preview ", "checkpoint ", "report ", "1 steps in ")
    ours += ("1/1 evaluations", "1 picture by")
    for line in (ended.stdout + ended.stderr).decode().splitlines():
        slow = line.endswith(" so far")  # what took long on this machine
        assert slow or line.startswith((*ours, "3.png", "student", "try it")), line


def test_libraries_are_quiet_whatever_they_set_themselves(tmp_path: Path) -> None:
    lines = (
        "import logging, warnings",
        "from piflow_cli.cli import console",
        "console.quiet_libraries()",
        "warnings.simplefilter('always')",
        "warnings.warn('a future version will change this')",
        "logging.getLogger('library').warning('no kernels')",
        "logging.getLogger('library').error('a process died')",
    )
    ended = shell(f'{sys.executable} -c "{"; ".join(lines)}"', tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"a process died\n")


def test_threads_that_wait_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP says itself how it was set, where it is GNU's."""
    import torch

    if "OpenMP" not in torch.__config__.parallel_info() or sys.platform != "linux":
        pytest.skip("this torch has no OpenMP of GNU")
    line = "piflow sample 3 --model digits-1nfe --device cpu --out three.png"
    told = {"OMP_DISPLAY_ENV": "true", "OMP_NUM_THREADS": "1"}
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert b"OMP_WAIT_POLICY = 'PASSIVE'" in shell(line, tmp_path, **told).stderr
    assert b"OMP_WAIT_POLICY = 'ACTIVE'" in shell(line, tmp_path, OMP_WAIT_POLICY="active", **told).stderr
