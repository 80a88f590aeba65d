"""Every checkpoint of a run can be sampled, also while the run goes on, and also where processes hold parts of it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_runner import run
from safetensors.torch import load_file
from tiny_runs import arguments, environment

from piflow_cli.engine.convert import convert
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.sample import sample
from piflow_cli.engine.students.find import find_student
from piflow_cli.engine.students.load import load_student, peek_card, read_student
from piflow_cli.errors import ModelError, PolicyError
from piflow_cli.preset import Preset, load_preset

TINY = (
    "training.steps=4",
    "training.batch_size=4",
    "training.checkpoint_every=1",
    "training.checkpoints_kept=3",
    "training.preview_every=0",
    "optimizer.warmup_steps=0",
    "optimizer.learning_rate=1e-2",
    "training.ema_gamma=0",
)


def tiny() -> Preset:
    return load_preset("digits-1nfe", TINY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "demo"
    distill(tiny(), out=out, device="cpu")
    return out


def picture(model: object) -> bytes:
    return sample(["3"], model=str(model), device="cpu").images[0].tobytes()


def test_checkpoints_go_by_step_and_by_folder(finished: Path) -> None:
    folder = finished / "checkpoints" / "step-0000003"
    names = [f"{finished}@3", folder, finished / "checkpoints" / "step-3", f"{finished}@0003"]
    assert {find_student(str(name)) for name in names} == {folder}
    assert len({picture(name) for name in names}) == 1
    assert picture(f"{finished}@4") == picture(finished) != picture(f"{finished}@2")
    stored, _ = read_student(find_student(f"{finished}@2"))
    assert (stored.card.steps, peek_card(find_student(f"{finished}@2")).steps) == (2, 2)
    assert load_student(f"{finished}@2").name == f"{finished}@2"


def test_a_step_that_was_not_kept_names_those_that_are(finished: Path, tmp_path: Path) -> None:
    ended = run("sample", "3", "--model", f"{finished}@1", cwd=tmp_path)
    assert ended.returncode == 1
    assert "has no checkpoint of step 1; it has 2, 3, 4." in ended.stderr
    with pytest.raises(ModelError, match="no checkpoint of step 9"):
        find_student(str(finished / "checkpoints" / "step-9"))
    with pytest.raises(PolicyError, match="nfe: greater than"):
        sample(["3"], model=f"{finished}@2", nfe=0, device="cpu")


def test_a_run_can_be_sampled_while_it_goes_on(tmp_path: Path) -> None:
    """The listener is called within the run, which holds the lock of its folder."""
    out, seen = tmp_path / "run", []

    def listen(event: DistillEvent) -> None:
        if event.kind == "checkpoint" and event.step == 2:
            assert (out / ".lock").exists()
            seen.append((picture(f"{out}@2"), picture(f"{out}@{event.step}"), picture(out)))

    distill(tiny(), out=out, device="cpu", on_event=listen)
    assert len(seen) == 1
    assert seen[0][0] == seen[0][1] == picture(f"{out}@2")


def test_a_checkpoint_can_be_converted_and_benchmarks_take_it(finished: Path, tmp_path: Path) -> None:
    result = convert(f"{finished}@2", tmp_path / "student", to="native", verify=True)
    assert (result.proof, result.max_difference) == ("outputs", 0)
    assert picture(tmp_path / "student") == picture(f"{finished}@2")
    options = ["--metric", "fid", "--samples", "40", "--teacher-steps", "none"]
    ended = run("benchmark", "--model", f"{finished}@2", "--model", finished, *options, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "@2" in ended.stdout


def test_damaged_checkpoints_and_those_without_a_card_are_refused(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    file = next((copy / "checkpoints" / "step-0000003").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ModelError, match=r"step-0000003 is damaged: .*safetensors"):
        load_student(f"{copy}@3")
    shutil.rmtree(copy / "student")
    with pytest.raises(ModelError, match="the card that says what it is of cannot be read beside it"):
        load_student(f"{copy}@4")


@pytest.mark.slow
def test_checkpoints_of_a_sharded_run_are_sampled_whole(tmp_path: Path) -> None:
    out = tmp_path / "run"
    changes = {"training.steps": 2, "training.checkpoint_every": 1}
    how = ["--num-processes", "2", "--strategy", "fsdp2"]
    line = [sys.executable, "-m", "piflow_cli", *arguments(tmp_path, "dit", out=out, **changes), *how]
    ended = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    stored, _ = read_student(find_student(f"{out}@2"))
    whole = load_file(out / "student" / "student.safetensors")
    assert stored.weights.keys() == whole.keys()
    assert all(torch.equal(stored.weights[name], tensor) for name, tensor in whole.items())
    assert picture(f"{out}@1") != picture(out) == picture(f"{out}@2")
