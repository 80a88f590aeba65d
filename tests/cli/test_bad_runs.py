"""Mistakes that need a state of the machine or of a folder: one message, exit 1, and nothing written over."""

import io
import json
import pickle
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from cli_runner import Ended, run
from safetensors.torch import save_file
from tiny_models import DIGIT_NAMES, save_teacher

from piflow_cli.cli import app, console
from piflow_cli.engine.distill.events import DistillResult
from piflow_cli.io.presets import read_header
from piflow_cli.io.texts.amounts import duration
from piflow_cli.preset import Preset

TINY = ["training.batch_size=4", "training.preview_every=0", "sampling.total_substeps=16", "data.type=noise"]
SETTINGS = [part for setting in TINY for part in ("--set", setting)]
RUN = ["distill", "--preset", "digits-1nfe", "--steps", 1, *SETTINGS, "--out", "run"]
DiskUsage = namedtuple("DiskUsage", "total used free")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(ended: Ended, message: str) -> None:
    assert ended.returncode == 1
    assert ended.stderr.count("error: ") == 1
    assert message in " ".join(ended.stderr.split())
    assert "bug" not in ended.stderr


def test_disk_too_small_for_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10, 9, 1))
    refused(run(*RUN, cwd=tmp_path), "GB free, but this needs")
    assert snapshot(tmp_path) == {}


def test_a_run_of_another_preset_is_not_mixed(tmp_path: Path) -> None:
    assert run(*RUN, cwd=tmp_path).returncode == 0
    before = snapshot(tmp_path)
    refused(run(*RUN, "--set", "policy.num_components=4", cwd=tmp_path), "policy.num_components: 8 there, 4 now")
    refused(run(*RUN, "--no-resume", cwd=tmp_path), "holds a run at step 1")
    assert snapshot(tmp_path) == before


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    refused(run(*RUN, cwd=tmp_path), "is not empty and holds no run")
    assert snapshot(tmp_path) == {"run/thesis.tex": b"mine"}


def test_dx_is_sampled_only_as_it_was_trained(tmp_path: Path) -> None:
    assert (
        run(*RUN, "--set", "policy={type='dx', num_points=3}", "--set", "sampling.nfe=2", cwd=tmp_path).returncode == 0
    )
    refused(run("sample", "3", "--model", "run", "--nfe", 1, cwd=tmp_path), "trained on segments of 0.5 of raw time")


def test_digits_need_their_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    ended = run(*RUN, "--set", "data.type=digits", cwd=tmp_path)
    refused(ended, "pip install 'piflow[digits]'")


def test_cuda_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(run(*RUN, "--device", "cuda", cwd=tmp_path), "finds no CUDA device")
    assert snapshot(tmp_path) == {}


class Payload:
    """A pickle that would write a file where it is executed."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.target, "executed")


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Payload(mark)))
    refused(run(*RUN, "--teacher", "evil.pth", cwd=tmp_path), "never executed")
    assert not mark.exists()


def test_truncated_and_misshapen_teachers(tmp_path: Path) -> None:
    teacher = save_teacher(tmp_path / "teacher", labels=DIGIT_NAMES, in_channels=1, out_channels=1)
    weights = next((teacher / "transformer").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(run(*RUN, "--teacher", "teacher", cwd=tmp_path), "truncated")
    save_file({"proj_out_2.bias": torch.zeros(3)}, weights)
    refused(
        run(*RUN, "--teacher", "teacher", "--out", "other", cwd=tmp_path),
        "num_layers = 2, but its weights are 1 tensors: it is damaged",
    )


def test_output_is_checked_before_sampling(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(run("sample", "3", "--model", "no-such-model", "--out", "file/pictures", cwd=tmp_path), "cannot write")


def test_preset_values_keep_their_types(tmp_path: Path) -> None:
    refused(run(*RUN, "--teacher", "1e5", cwd=tmp_path), "'1e5' does not exist")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "error: interrupted"),
        (OSError(28, "No space left on device", "run/x"), "the disk is full (run/x)"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA"), "out of memory"),
        (ZeroDivisionError("x"), "this is a bug in piflow: ZeroDivisionError: x"),
    ],
)
def test_failures_nobody_planned(
    error: BaseException, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("piflow_cli.io.presets.preset_headers", fail)
    ended = run("presets", "list", cwd=tmp_path)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_exception_is_explained() -> None:
    assert "PIFLOW_DEBUG=1" in app.explain(ValueError("x"))


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"loss": float("nan"), "rows": [(1.0, float("inf"))], "path": Path("a")})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "rows": [[1.0, None]], "path": "a"}


def test_headers_are_read_without_the_schema(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('summary = "x"\n[policy]\ntype = "unknown"')
    assert read_header(tmp_path / "mine.toml").summary == "x"


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(preset: Preset, *, out: Path, **options: object) -> DistillResult:
        return DistillResult(
            student=out / "student",
            out=out,
            step=3,
            steps=9,
            interrupted=True,
            skipped=0,
            wall_s=1.0,
            loss=0.5,
        )

    monkeypatch.setattr("piflow_cli.engine.distill.distill", interrupted)
    ended = run("distill", "--preset", "digits-1nfe", "--out", "my run", "--json", cwd=tmp_path)
    assert json.loads(ended.stdout)["interrupted"] is True
    refused(ended, "To go on: piflow distill --preset digits-1nfe --out 'my run' --json")
    monkeypatch.setenv("RANK", "1")
    other = run("distill", "--preset", "digits-1nfe", "--json", cwd=tmp_path)
    assert (other.returncode, other.stdout) == (0, "")


def test_progress_is_one_live_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with console.progress() as line:
        line.update(1, 4, "one of four")
        line.say("checkpoint [1]")
        line.update(4, 4, "done")
    shown = sys.stderr.getvalue()
    assert "checkpoint [1]" in shown
    assert "done" in shown


@pytest.mark.parametrize(("seconds", "words"), [(3.4, "3s"), (190, "3m10s"), (7500, "2h05m")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
