"""The trainer: it learns, resumes bitwise, survives kills and bad numbers, and writes what it says."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import assert_same, stop_at
from safetensors.torch import load_file

from piflow_cli.core.sampling import sample_euler
from piflow_cli.core.schedule import Shift
from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.build import build_student
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.distill.resume.checkpoints import CARD
from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.engine.plan.batches import micro_batches
from piflow_cli.engine.sample import sample
from piflow_cli.engine.students.load import load_student
from piflow_cli.errors import DataError, DeviceError, StorageError, TrainingError
from piflow_cli.io.tensors.distributed import read_tensors
from piflow_cli.preset import Preset, load_preset

TINY = (
    "training.batch_size=4",
    "training.checkpoint_every=2",
    "training.preview_every=0",
    "optimizer.warmup_steps=2",
    "sampling.total_substeps=16",
)


def tiny(*overrides: str, steps: int = 4) -> Preset:
    return load_preset("digits-1nfe", [*TINY, f"training.steps={steps}", *overrides])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student" / "student.safetensors")


def checkpoint_content(folder: Path) -> dict[str, object]:
    """Everything a checkpoint holds, as comparable values."""
    return {"tensors": read_tensors(folder), "card": (folder / CARD).read_text()}


@pytest.mark.parametrize("data", ["digits", "noise"])
@pytest.mark.parametrize("policy", ["gmflow", "dx"])
def test_run_leaves_a_loadable_student_and_its_records(tmp_path: Path, data: str, policy: str) -> None:
    events: list[DistillEvent] = []
    table = {"gmflow": (), "dx": ("policy={type='dx', num_points=4}",)}[policy]
    preset = tiny(f"data.type={data}", "training.preview_every=4", "training.preview_images=4", *table)
    result = distill(preset, out=tmp_path / "run", device="cpu", on_event=events.append)
    assert not result.interrupted
    assert (result.step, result.skipped) == (4, 0)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in rows)
    assert [event.step for event in events if event.kind == "checkpoint"] == [2, 4]
    assert (tmp_path / "run" / "previews" / "step-0000004.png").exists()
    assert Preset.model_validate_json((tmp_path / "run" / "preset.json").read_text()) == preset
    pictures = sample(["3", "seven"], model=str(tmp_path / "run"), device="cpu")
    assert len(pictures.images) == 2
    assert pictures.images[0].size == (8, 8)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    preset = tiny("training.batch_size=32", "optimizer.learning_rate=1e-3", "optimizer.decay='constant'", steps=30)
    distill(preset, out=tmp_path / "run", device="cpu")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.fixture(scope="module")
def first_loss(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Loss of the first step of `tiny`."""
    return loss_of_one_step(tiny(steps=1), tmp_path_factory.mktemp("first") / "run")


def loss_of_one_step(preset: Preset, out: Path) -> float:
    loss = distill(preset, out=out, device="cpu").loss
    assert loss is not None
    return loss


@pytest.mark.parametrize(
    "change",
    [
        "objective.num_intermediates=3",
        "objective.stratified=false",
        "objective.window_substeps=4",
        "objective.teacher_mixing_steps=2",
        "policy.dropout=0.5",
    ],
)
def test_what_a_step_does_follows_the_preset(tmp_path: Path, first_loss: float, change: str) -> None:
    loss = loss_of_one_step(tiny(change, steps=1), tmp_path / "run")
    assert loss != pytest.approx(first_loss, rel=1e-6)


def test_the_loss_scale_follows_the_preset(tmp_path: Path, first_loss: float) -> None:
    loss = loss_of_one_step(tiny("objective.loss_scale=6.0", steps=1), tmp_path / "run")
    assert loss == pytest.approx(2 * first_loss, rel=1e-6)


@pytest.mark.parametrize("data", ["digits", "noise"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_run_equals_uninterrupted_one_bitwise(tmp_path: Path, data: str, optimizer: str) -> None:
    changes = ("sampling.nfe=2", "objective.teacher_mixing_steps=3", "policy.dropout=0.3")
    preset = tiny(f"data.type={data}", f"optimizer.name={optimizer}", *changes)
    distill(preset, out=tmp_path / "whole", device="cpu")

    stop_after_two = stop_at(2)
    first = distill(preset, out=tmp_path / "parts", device="cpu", on_event=stop_after_two)
    assert first.interrupted
    assert first.step == 2
    second = distill(preset, out=tmp_path / "parts", device="cpu")
    assert (second.step, second.interrupted) == (4, False)

    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    name = "checkpoints/step-0000004"
    assert_same(checkpoint_content(tmp_path / "whole" / name), checkpoint_content(tmp_path / "parts" / name))
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "parts")
    ]
    assert losses[0] == losses[1]


def test_gradient_accumulation_keeps_the_effective_batch(tmp_path: Path) -> None:
    preset = tiny("training.micro_batch_size=2", steps=2)
    assert micro_batches(preset, 1) == (2, 2)
    assert micro_batches(preset, 2) == (2, 1)
    result = distill(preset, out=tmp_path / "run", device="cpu")
    assert result.step == 2
    with pytest.raises(DataError, match="not divisible by 3 processes"):
        micro_batches(preset, 3)
    with pytest.raises(DataError, match=r"micro_batch_size 2"):
        micro_batches(tiny("training.batch_size=6", "training.micro_batch_size=2"), 2)


def test_non_finite_steps_are_skipped_counted_and_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from piflow_cli.teachers.dit.teacher import DiTTeacher

    good = DiTTeacher.velocity
    calls = {"count": 0}

    def sometimes_nan(self, x, sigma, condition, *, network=None):
        calls["count"] += 1
        u = good(self, x, sigma, condition, network=network)
        return u * float("nan") if calls["count"] > 2 else u

    monkeypatch.setattr(DiTTeacher, "velocity", sometimes_nan)
    events: list[DistillEvent] = []
    preset = tiny("optimizer.max_bad_steps=3", "training.checkpoint_every=1", steps=10)
    with pytest.raises(TrainingError, match="3 steps in a row"):
        distill(preset, out=tmp_path / "run", device="cpu", on_event=events.append)
    assert [event.step for event in events if event.kind == "skipped"] == [2, 3, 4]
    newest = RunFolder(tmp_path / "run").checkpoints.found()[-1][1]
    assert all(torch.isfinite(t).all() for t in read_tensors(newest).values())


def test_teacher_stays_untouched_and_student_starts_as_it(tmp_path: Path) -> None:
    preset = tiny("policy.bias_noise=0")
    teacher = preset.teacher.load()
    before = {name: p.clone() for name, p in teacher.module.named_parameters()}
    student = build_student(preset, teacher, generator=torch.Generator().manual_seed(0))
    x, sigma, labels = torch.randn(5, 1, 8, 8), torch.rand(5) * 0.9 + 0.1, torch.arange(5)
    policy = student.policy(x, sigma, labels)
    torch.testing.assert_close(policy.velocity(x, sigma), teacher.velocity(x, sigma, labels), rtol=1e-4, atol=1e-5)
    policy.velocity(x, sigma).square().mean().backward()
    assert student.head.means.weight.grad.abs().sum() > 0
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in teacher.module.named_parameters())


def test_run_of_another_preset_is_refused_and_kept(tmp_path: Path) -> None:
    distill(tiny(steps=2), out=tmp_path / "run", device="cpu")
    before = weights(tmp_path / "run")
    with pytest.raises(StorageError, match=r"another preset \(training\.seed: 0 there, 1 now"):
        distill(tiny("training.seed=1", steps=2), out=tmp_path / "run", device="cpu")
    with pytest.raises(StorageError, match="--no-resume"):
        distill(tiny(steps=2), out=tmp_path / "run", device="cpu", resume=False)
    assert_same(before, weights(tmp_path / "run"))


def test_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    distill(tiny(steps=2), out=tmp_path / "run", device="cpu")
    before = weights(tmp_path / "run")
    again = distill(tiny(steps=2), out=tmp_path / "run", device="cpu")
    assert again.step == 2
    assert again.student == tmp_path / "run" / "student"
    assert_same(before, weights(tmp_path / "run"))


def test_foreign_folder_full_disk_and_missing_device_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="not empty"):
        distill(tiny(), out=tmp_path, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="finds no CUDA"):
            distill(tiny(), out=tmp_path / "run", device="cuda")
    from piflow_cli.io import files as storage

    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"this needs 0\.\d+ GB"):
        distill(tiny(), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "preset.json").exists()
    assert (tmp_path / "thesis.txt").read_text() == "mine"


KILLED = """
import sys
from pathlib import Path
from piflow_cli.io import files as storage
from piflow_cli.engine.distill import distill
from piflow_cli.preset import Preset
import os, signal

replace = os.replace
def die_in_second_checkpoint(source, target):
    if str(target).endswith("step-0000004"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
storage.os.replace = die_in_second_checkpoint
distill(Preset.model_validate_json(Path(sys.argv[1]).read_text()), out=sys.argv[2], device="cpu")
"""


def test_kill_in_a_checkpoint_write_leaves_the_previous_one(tmp_path: Path) -> None:
    preset = tiny(steps=6)
    (tmp_path / "preset.json").write_text(preset.model_dump_json())
    command = [sys.executable, "-c", KILLED, str(tmp_path / "preset.json"), str(tmp_path / "run")]
    process = subprocess.run(command, capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL
    assert RunFolder(tmp_path / "run").checkpoints.newest_step() == 2
    result = distill(preset, out=tmp_path / "run", device="cpu")
    assert result.step == 6
    assert not list((tmp_path / "run" / "checkpoints").glob(".partial-*"))
    whole = distill(preset, out=tmp_path / "whole", device="cpu")
    assert_same(weights(whole.out), weights(result.out))


def test_terminated_process_saves_and_can_go_on(tmp_path: Path) -> None:
    preset = tiny(steps=5000)
    (tmp_path / "preset.json").write_text(preset.model_dump_json())
    code = (
        "import sys; from pathlib import Path; from piflow_cli.engine.distill import distill; "
        "from piflow_cli.preset import Preset; "
        "r = distill(Preset.model_validate_json(Path(sys.argv[1]).read_text()), out=sys.argv[2], device='cpu'); "
        "print(r.interrupted, r.step)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "preset.json"), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline, "no step was taken in two minutes"
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=60)
    interrupted, step = stdout.split()
    assert interrupted == "True"
    assert RunFolder(tmp_path / "run").checkpoints.newest_step() == int(step)
    assert load_student(str(tmp_path / "run")).card.steps == int(step)


def test_teacher_draws_digits() -> None:
    """The embedded teacher, by its own Euler steps, draws pictures that are neither flat nor noise."""
    teacher = load_preset("digits-1nfe").teacher.load()
    noise = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10)
    latents = sample_euler(lambda x, s: teacher.velocity(x, s, labels), noise, num_steps=16, shift=Shift(1.0))
    pictures = teacher.space.decode(latents)
    assert 0.15 < pictures.mean() < 0.5
    assert pictures[:, :, :, 0].mean() < 0.1  # the margins of the scans are white
