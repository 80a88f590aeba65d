"""`--verify-resume`: a run that was stopped and went on beside one that was not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import run as cli
from tiny_pipelines import base_folder

from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.resume.verify import ResumeReport, compare_runs
from piflow_cli.preset import load_preset

DIGITS = ["training.batch_size=8", "training.micro_batch_size=2", "training.preview_every=0"]
FLUX = [
    f"teacher.source={base_folder('flux')}",
    "teacher.width=48",
    "teacher.height=64",
    "teacher.max_sequence_length=12",
    "adapter.rank=4",
    "training.mixed_precision=no",
    "training.teacher_dtype=float32",
    "training.batch_size=4",
    "training.micro_batch_size=1",
    "sampling.total_substeps=32",
    "optimizer.name=adamw",
    "optimizer.warmup_steps=0",
]
ALL = {
    "weights",
    "average",
    "optimiser",
    "scheduler",
    "mixing ratio",
    "loss scale",
    "counters",
    "effective batch",
    "data position",
    "draws",
    "losses",
}


def verify(folder: Path, preset: str, settings: list[str], *how: str, code: int = 0) -> dict:
    """The report of `piflow distill --verify-resume 2`, as a user starts it."""
    sets = [part for setting in settings for part in ("--set", setting)]
    line = ["distill", "--preset", preset, *sets, "--device", "cpu", "--out", str(folder / "run"), "--json"]
    ended = subprocess.run(
        [sys.executable, "-m", "piflow_cli", *line, "--verify-resume", "2", *how],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == code, ended.stderr[-3000:]
    return json.loads(ended.stdout)


def largest(report: dict) -> dict[str, float]:
    return {row["part"]: row["largest"] for row in report["differences"]}


def flux(folder: Path) -> list[str]:
    """Settings of the tiny FLUX, with prompts that lie in a folder."""
    prompts = folder / "prompts.txt"
    prompts.write_text("a red cat\nblue dog\nthe house\n")
    return [*FLUX, f"data.path={prompts}", f"data.cache={folder / 'cache'}", "data.limit=3"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("--num-processes", "2", "--strategy", "ddp")], ids=["1", "2"])
def test_digits_go_on_as_if_they_had_not_stopped(tmp_path: Path, how: tuple[str, ...]) -> None:
    report = verify(tmp_path, "digits-1nfe", DIGITS, *how)
    assert largest(report) == dict.fromkeys(ALL, 0)
    assert report["num_processes"] == [2, 2] if how else [1, 1]
    assert list(tmp_path.iterdir()) == [], "nothing is left where nothing differs"


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("--num-processes", "2", "--strategy", "fsdp2")], ids=["1", "2"])
def test_a_tiny_flux_goes_on_as_if_it_had_not_stopped(tmp_path: Path, how: tuple[str, ...]) -> None:
    report = verify(tmp_path, "flux-4nfe-datafree", flux(tmp_path), *how)
    assert largest(report) == dict.fromkeys(ALL, 0)
    assert report["sharded"] == [bool(how)] * 2
    assert {path.name for path in tmp_path.iterdir()} == {"prompts.txt", "cache"}


@pytest.mark.slow
def test_another_number_of_processes_keeps_the_data_and_says_the_difference(tmp_path: Path) -> None:
    how = ("--num-processes", "2", "--strategy", "fsdp2", "--verify-resume-processes", "1")
    report = verify(tmp_path, "flux-4nfe-datafree", flux(tmp_path), *how)
    apart = largest(report)
    rounded = ("weights", "average", "optimiser", "losses")
    assert all(apart[part] == 0 for part in ALL - set(rounded)), apart
    assert all(apart[part] < 1e-4 for part in rounded), apart
    assert report["batch"] == [4, 4]
    assert report["keeps_order"]
    assert report["num_processes"] == [2, 1]
    assert report["sharded"] == [True, False]


@pytest.mark.slow
def test_micro_batches_that_cannot_stay_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    settings = ["training.batch_size=4", "optimizer.name=adamw"]
    report = verify(tmp_path, "digits-1nfe", settings, "--verify-resume-processes", "2", code=1)
    assert report["batch"] == [4, 4]
    assert largest(report)["data position"] == 2
    assert not report["keeps_order"]


def run(folder: Path, *settings: str, stops: tuple[int, ...]) -> Path:
    """A run of the digits that is stopped at these steps."""
    preset = load_preset("digits-1nfe", [*DIGITS, "training.batch_size=4", *settings])
    for step in stops:
        distill(preset, out=folder, device="cpu", stop_after=step)
    return folder


def parts_that_differ(report: ResumeReport) -> set[str]:
    return {difference.part for difference in report.differences if difference.largest}


def test_what_differs_is_found(tmp_path: Path) -> None:
    """Equal runs have no difference in any part; another seed, rate or ratio is found where it is."""
    straight = run(tmp_path / "straight", stops=(2,))
    equal = compare_runs(straight, run(tmp_path / "equal", stops=(1, 2)), stopped_at=1)
    assert {difference.part for difference in equal.differences} == ALL
    assert equal.is_zero
    assert equal.keeps_order
    seeded = compare_runs(straight, run(tmp_path / "seeded", "training.seed=1", stops=(2,)), stopped_at=1)
    assert parts_that_differ(seeded) >= {"weights", "average", "optimiser", "data position", "draws", "losses"}
    assert not seeded.keeps_order
    rate = compare_runs(straight, run(tmp_path / "rate", "optimizer.learning_rate=0.0011", stops=(2,)), stopped_at=1)
    assert {"weights", "scheduler"} <= parts_that_differ(rate)
    assert not {"data position", "draws"} & parts_that_differ(rate)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plan"], "leave out --plan"),
        (["--num-machines", "2"], "starts its own processes"),
        (["--steps", "3"], "takes 4 steps and training.steps is 3"),
    ],
)
def test_what_cannot_be_verified_is_refused(tmp_path: Path, options: list[str], message: str) -> None:
    line = ("distill", "--preset", "digits-1nfe", "--out", tmp_path / "run", "--verify-resume", "2")
    ended = cli(*line, *options, cwd=tmp_path)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert list(tmp_path.iterdir()) == []
