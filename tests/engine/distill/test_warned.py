"""Slurm's warning before an allocation ends (SIGUSR1): all processes save and stop, and one says how to go on."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = {
    "training.batch_size": 8,
    "training.checkpoint_every": 1000,
    "training.preview_every": 0,
    "optimizer.name": "adamw",
}
JOB = {"SLURM_JOB_ID": str(random.Random(os.getpid()).randint(1, 10**6))}
"""The port on which tasks meet comes of the job's number."""


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")} | {"OMP_NUM_THREADS": "1"} | JOB


def line(out: Path, *, steps: int) -> list[str]:
    sets = [part for key, value in RUN.items() for part in ("--set", f"{key}={value}")]
    run = ["distill", "--preset", "digits-1nfe", "--device", "cpu", "--steps", str(steps), "--out", str(out)]
    return [sys.executable, "-m", "piflow_cli", *run, *sets]


def begin(command: list[str], **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment() | variables)


def wait_for_steps(run: Path, count: int) -> None:
    journal, deadline = run / "metrics.jsonl", time.monotonic() + 240
    while not (journal.exists() and journal.read_text().count("\n") >= count):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check_saved(run: Path, said: str) -> int:
    """What was said, once, and the checkpoint that was written; returns its step."""
    assert said.count("error:") == 1, said
    assert "before its time was over (SIGUSR1); everything is saved" in said
    assert f"To requeue the job: scontrol requeue {JOB['SLURM_JOB_ID']}." in said
    (step,) = (int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))
    assert f"stopped at step {step} of" in said
    return step


@pytest.mark.slow
def test_through_the_launcher_and_in_its_processes(tmp_path: Path) -> None:
    """Slurm signals every process of a job step, so that the launcher's word is not the first."""
    import psutil

    run = tmp_path / "run"
    process = begin([*line(run, steps=4000), "--num-processes", "2"])
    wait_for_steps(run, 3)
    others = psutil.Process(process.pid).children(recursive=True)
    assert len(others) >= 2
    for number in [other.pid for other in others]:
        os.kill(number, signal.SIGUSR1)
    os.kill(process.pid, signal.SIGUSR1)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    step = check_saved(run, said)
    assert said.rstrip().endswith("--num-processes 2")
    again = [*line(run, steps=step + 1), "--num-processes", "2"]
    ended = subprocess.run(again, capture_output=True, text=True, env=environment(), check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"resumed from step {step}" in ended.stderr


@pytest.mark.slow
def test_the_launcher_alone(tmp_path: Path) -> None:
    process = begin([*line(tmp_path / "run", steps=4000), "--num-processes", "2"])
    wait_for_steps(tmp_path / "run", 3)
    os.kill(process.pid, signal.SIGUSR1)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    check_saved(tmp_path / "run", said)


@pytest.mark.slow
def test_a_task_of_srun(tmp_path: Path) -> None:
    run = tmp_path / "run"
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "localhost"}
    tasks = [begin(line(run, steps=4000), **step, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)) for rank in range(2)]
    wait_for_steps(run, 3)
    os.kill(tasks[1].pid, signal.SIGUSR1)
    said = [task.communicate(timeout=120)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [1, 0]
    check_saved(run, said[0])
    assert "error" not in said[1]
    assert "To go on: srun --nodes 1 --ntasks 2 python -m piflow_cli distill" in said[0]
