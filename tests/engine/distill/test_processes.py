"""Training on two processes, copied (DDP) and sharded (FSDP2), started as users start them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import PARITY

from piflow_cli.io.tensors.distributed import read_tensors

TEXT = {
    "teacher.width": 48,
    "teacher.height": 64,
    "adapter.rank": 4,
    "training.mixed_precision": "no",
    "training.teacher_dtype": "float32",
    "training.batch_size": 4,
    "training.micro_batch_size": 1,
    "data.limit": 3,
    "sampling.total_substeps": 32,
}
FAMILIES = {
    "dit": ("digits-1nfe", {"training.batch_size": 8, "training.micro_batch_size": 2}),
    "flux": (
        "flux-4nfe-datafree",
        TEXT | {"teacher.source": PARITY / "e2e_flux" / "pipeline", "teacher.max_sequence_length": 12},
    ),
    "qwen": ("qwen-4nfe-datafree", TEXT | {"teacher.source": PARITY / "e2e_qwen" / "pipeline"}),
}
COMMON = {
    "training.checkpoint_every": 1,
    "training.preview_every": 0,
    "optimizer.name": "adamw",
    "optimizer.warmup_steps": 0,
    "optimizer.clip_norm": 1e9,
}
BETA_1 = 0.9


def arguments(folder: Path, family: str, *, steps: int, out: str, changes: dict[str, object]) -> list[str]:
    """The command line of a tiny run."""
    preset, settings = FAMILIES[family]
    settings = COMMON | settings | changes
    if family != "dit":
        (folder / "prompts.txt").write_text("a red cat\nblue dog\nthe house\n")
        settings = settings | {"data.path": folder / "prompts.txt", "data.cache": folder / "cache"}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["distill", "--preset", preset, "--device", "cpu", "--steps", str(steps), "--out", str(folder / out), *sets]


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "piflow_cli", *options]


def train(folder: Path, family: str, *how: str, steps: int = 1, out: str, **changes: object) -> Path:
    """A run that ends well; returns its folder."""
    line = command(*arguments(folder, family, steps=steps, out=out, changes=changes), *how)
    ended = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("try it") == 1, "one process speaks"
    assert len(re.findall(r"^(?:\d+ processes|1 process)[,;].*batch", ended.stderr, flags=re.M)) == 1, ended.stderr
    return folder / out


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")} | {
        "OMP_NUM_THREADS": "1"
    }


def first_gradients(run: Path) -> dict[str, torch.Tensor]:
    """The gradients of the first step, from AdamW's first moments in its checkpoint: (1 - beta_1) times them."""
    moments = read_tensors(run / "checkpoints" / "step-0000001", "optimizer.0.exp_avg.")
    return {name: moment / (1 - BETA_1) for name, moment in moments.items()}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Relative to the largest number of all."""
    assert a.keys() == b.keys()
    size = max(float(tensor.abs().max()) for tensor in b.values())
    return max(float((a[name] - b[name]).abs().max()) for name in a) / size


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def student(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "student.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_have_the_gradients_of_one(tmp_path: Path, family: str) -> None:
    """The draws of a micro-batch are the same whichever process takes it, so that the sums agree to rounding."""
    alone = first_gradients(train(tmp_path, family, out="alone", **{"training.teacher_dtype": "float32"}))
    for strategy in ("ddp", "fsdp2"):
        how = ("--num-processes", "2", "--strategy", strategy)
        spread = train(tmp_path, family, *how, out=strategy, **{"training.teacher_dtype": "float32"})
        assert largest_difference(first_gradients(spread), alone) < 1e-5, strategy


@pytest.mark.slow
def test_bfloat16_gradients_are_reduced_in_float32(tmp_path: Path) -> None:
    """Gathered in bfloat16 as autocast computes in it: what differs is the order of sums, not their precision."""
    changes = {"training.mixed_precision": "bf16", "training.teacher_dtype": "bfloat16"}
    alone = first_gradients(train(tmp_path, "flux", out="alone", **changes))
    how = ("--num-processes", "2", "--strategy", "fsdp2")
    assert largest_difference(first_gradients(train(tmp_path, "flux", *how, out="sharded", **changes)), alone) < 5e-3


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
@pytest.mark.parametrize("quantization", ["torchao-int8", "torchao-fp8"])
def test_processes_train_on_a_quantised_base_as_one_does(tmp_path: Path, quantization: str) -> None:
    changes = {"teacher.quantization": quantization}
    alone = first_gradients(train(tmp_path, "flux", out="alone", **changes))
    spread = train(tmp_path, "flux", "--num-processes", "2", out="spread", **changes)
    assert largest_difference(first_gradients(spread), alone) < 1e-5


@pytest.mark.slow
def test_a_sharded_run_resumes_bitwise_and_checkpoints_hold_no_base(tmp_path: Path) -> None:
    how = ("--num-processes", "2", "--strategy", "fsdp2")
    changes = {"training.checkpoint_every": 2}
    run = train(tmp_path, "flux", *how, steps=4, out="run", **changes)
    whole = student(run)
    names = set()
    for path in (run / "checkpoints" / "step-0000004").glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names |= set(file.keys())
    assert not [name for name in names if name.endswith(".attn.to_q.weight")]
    for path in ("checkpoints/step-0000004", "student"):
        (run / path).rename(tmp_path / Path(path).name)
    assert largest_difference(student(train(tmp_path, "flux", *how, steps=4, out="run", **changes)), whole) == 0


@pytest.mark.slow
def test_float16_survives_an_overflow(tmp_path: Path) -> None:
    """A first scale that overflows is halved until it does not, and training goes on."""
    changes = {"training.mixed_precision": "fp16", "training.teacher_dtype": "float16", "objective.loss_scale": 3e4}
    run = train(tmp_path, "flux", steps=12, out="run", **changes)
    rows = metrics(run)
    assert rows[-1]["step"] == 12
    assert 0 < rows[-1]["skipped"] < 12


@pytest.mark.slow
def test_muon_and_shards_are_refused_before_anything_starts(tmp_path: Path) -> None:
    line = arguments(tmp_path, "dit", steps=1, out="run", changes={"optimizer.name": "muon"})
    ended = subprocess.run(
        command(*line, "--num-processes", "2", "--strategy", "fsdp2"),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert ended.returncode == 1
    assert "optimizer.name muon" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_started_one_of_several_is_refused(tmp_path: Path) -> None:
    """As `accelerate launch --cpu --num_processes 2` leaves the environment of the one process that it starts."""
    asked = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "ACCELERATE_USE_CPU": "True"}
    ended = subprocess.run(
        command(*arguments(tmp_path, "dit", steps=1, out="run", changes={})),
        capture_output=True,
        text=True,
        env=environment() | asked,
        check=False,
    )
    assert ended.returncode == 1
    assert "asked for several processes and has started one" in ended.stderr
    assert "--num-processes" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_of_two_processes_that_ends_ends_both_and_the_run_goes_on(tmp_path: Path, number: int) -> None:
    line = arguments(tmp_path, "dit", steps=400, out="run", changes={"training.checkpoint_every": 5})
    how = ("--num-processes", "2", "--strategy", "ddp")
    process = subprocess.Popen(command(*line, *how), stderr=subprocess.PIPE, text=True, env=environment())
    journal, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (journal.exists() and journal.read_text().count("\n") >= 8):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    victim = worker(process.pid, rank=1)
    begun = time.monotonic()
    os.kill(victim, number)
    _, said = process.communicate(timeout=90)
    assert time.monotonic() - begun < 60
    assert process.returncode == 1, said
    if number == signal.SIGKILL:
        assert "rank 1 was ended by SIGKILL" in said
    assert "Traceback" not in said
    reached = max(int(path.name.removeprefix("step-")) for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert reached >= 5
    line[line.index("--steps") + 1] = str(reached + 2)
    ended = subprocess.run(command(*line, *how), capture_output=True, text=True, env=environment(), check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert f"resumed from step {reached}" in ended.stderr


def worker(launcher: int, *, rank: int) -> int:
    """The process id of a rank."""
    import psutil

    for child in psutil.Process(launcher).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            return child.pid
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.slow
def test_processes_share_previews_and_validation_and_find_what_one_finds(tmp_path: Path) -> None:
    asked = {
        **{"training.preview_every": 2, "training.preview_images": 3, "training.teacher_dtype": "float32"},
        **{"validation.every": 2, "validation.prompts": '["3","4","5"]', "validation.samples": 21},
    }
    if find_spec("tensorboard") is not None:  # whose end must not take the processes' exchange along
        asked["training.trackers"] = '["tensorboard"]'
    alone = train(tmp_path, "dit", steps=2, out="alone", **asked)
    (expected,) = [row for row in metrics(alone) if "loss" not in row]
    for strategy in ("ddp", "fsdp2"):
        how = ("--num-processes", "2", "--strategy", strategy)
        spread = train(tmp_path, "dit", *how, steps=2, out=strategy, **asked)
        (found,) = [row for row in metrics(spread) if "loss" not in row]
        for key in ("validation/paired_error_1nfe", "validation/fid_1nfe"):
            assert found[key] == pytest.approx(expected[key], rel=1e-3), (strategy, key)
        assert len(list((spread / "previews").iterdir())) == len(list((spread / "validation").iterdir())) == 1
        kept = load_file(spread / "best" / "student.safetensors")
        assert largest_difference(kept, student(spread)) == 0
