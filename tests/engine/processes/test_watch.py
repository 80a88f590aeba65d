"""Processes that hang, are frozen, or wait in vain: all end, one says why, and the run goes on when called again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from piflow_cli.errors import PARTNER_ENDED

ENDS_WITHIN_S = 60
RUN = {
    "training.batch_size": 8,
    "training.checkpoint_every": 5,
    "training.preview_every": 0,
    "optimizer.name": "adamw",
    "training.hang_timeout_s": 5,
}
HANG = """
import os, time
if os.environ.get("RANK") == "1":
    from piflow_cli.data.loading import Loader
    read, seen = Loader._read, []
    def stuck(loader):
        seen.append(1)
        if len(seen) > 12:
            time.sleep(3600)
        return read(loader)
    Loader._read = stuck
"""
"""Lets the data source of rank 1 hang in the 13th step; Python runs it in every process that starts."""


def environment(*paths: Path) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    path = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def line(out: Path, *, steps: int) -> list[str]:
    sets = [part for key, value in RUN.items() for part in ("--set", f"{key}={value}")]
    run = ["distill", "--preset", "digits-1nfe", "--device", "cpu", "--steps", str(steps), "--out", str(out)]
    return [sys.executable, "-m", "piflow_cli", *run, *sets, "--num-processes", "2"]


def watched(how: str) -> list[tuple[int, str]]:
    """How the two processes of watched.py ended, and what they said."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    script = str(Path(__file__).with_name("watched.py"))
    processes = [
        subprocess.Popen(
            [sys.executable, script, how, str(rank)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment() | place | {"RANK": str(rank), "WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=ENDS_WITHIN_S)[1] for process in processes[:1]]
    if how == "waits":
        processes[1].kill()
    said.append(processes[1].communicate(timeout=ENDS_WITHIN_S)[1])
    return [(process.returncode, words) for process, words in zip(processes, said, strict=True)]


def test_a_process_that_hangs_says_so_and_the_others_end_too() -> None:
    (code, words), (stuck, said) = watched("stuck")
    assert (code, stuck) == (PARTNER_ENDED, 1)
    assert "error" not in words
    assert said.count("error: rank 1 of 2 has been reading the data of step 7 for 1 s and hangs") == 1
    assert "training.hang_timeout_s" in said


def test_a_process_that_gets_on_is_left_alone() -> None:
    assert [code for code, _ in watched("slow")] == [0, 0]


def test_a_process_waits_for_others_as_long_as_it_is_told_to() -> None:
    assert watched("waits")[0][0] == 3


@pytest.mark.slow
def test_a_hang_in_a_data_source_ends_all_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANG)
    process = subprocess.Popen(line(tmp_path / "run", steps=400), stderr=subprocess.PIPE, env=environment(tmp_path))
    journal = tmp_path / "run" / "metrics.jsonl"
    reached = time.monotonic() + 240
    while not (journal.exists() and journal.read_text().count("\n") >= 12):
        assert time.monotonic() < reached
        time.sleep(0.1)
    begun = time.monotonic()
    said = process.communicate(timeout=2 * ENDS_WITHIN_S)[1].decode()
    assert time.monotonic() - begun < ENDS_WITHIN_S
    assert process.returncode == 1
    assert said.count("error:") == 1, said
    assert "rank 1 of 2 has been reading the data of step 13 for 5 s" in said
    goes_on = subprocess.run(
        line(tmp_path / "run", steps=14), capture_output=True, text=True, env=environment(), check=False
    )
    assert goes_on.returncode == 0, goes_on.stderr
    assert "resumed from step 10" in goes_on.stderr


@pytest.mark.slow
def test_a_frozen_process_is_named_by_another_one(tmp_path: Path) -> None:
    import psutil

    process = subprocess.Popen(line(tmp_path / "run", steps=4000), stderr=subprocess.PIPE, env=environment())
    journal, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 240
    while not (journal.exists() and journal.read_text().count("\n") >= 6):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    frozen = next(child for child in children if child.environ().get("RANK") == "1")
    begun = time.monotonic()
    os.kill(frozen.pid, signal.SIGSTOP)
    said = process.communicate(timeout=2 * ENDS_WITHIN_S)[1].decode()
    assert time.monotonic() - begun < ENDS_WITHIN_S
    assert process.returncode == 1
    assert said.count("error:") == 1, said
    assert "rank 1 of 2 has given no sign of life for 5 s" in said
    assert not frozen.is_running()
