"""Training on two processes: data parallel (DDP) and sharded (FSDP2), started as users start them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import PARITY

TESTS = Path(__file__).parents[2]
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "FluxTransformerBlock,FluxSingleTransformerBlock",
}
TINY_FLUX = {
    "teacher.source": str(PARITY / "e2e_flux" / "pipeline"),
    "teacher.width": 48,
    "teacher.height": 64,
    "teacher.max_sequence_length": 12,
    "adapter.rank": 4,
    "training.batch_size": 4,
    "training.micro_batch_size": 1,
    "training.mixed_precision": "no",
    "training.teacher_dtype": "float32",
    "training.checkpoint_every": 2,
    "training.preview_every": 4,
    "training.preview_images": 2,
    "optimizer.warmup_steps": 1,
    "data.limit": 3,
}


def train(folder: Path, *, steps: int, sharded: bool = False, **changes: object) -> Path:
    """Two processes train the data-free FLUX recipe at the size of a random pipeline; returns the run's folder."""
    (folder / "prompts.txt").write_text("a red cat\nblue dog\nthe house\n")
    settings = TINY_FLUX | {"data.path": folder / "prompts.txt", "data.cache": folder / "cache"} | changes
    program = [str(TESTS / "fsdp_on_cpu.py")] if sharded else ["-m", "piflow_cli"]
    out = folder / ("sharded" if sharded else "copied")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", *program]
    command += [
        "distill",
        "--preset",
        "flux-4nfe-datafree",
        "--device",
        "cpu",
        "--steps",
        str(steps),
        "--out",
        str(out),
    ]
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (SHARDED if sharded else {})
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("try it") == 1  # one process speaks
    return out


def student(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "student.safetensors")


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.slow
def test_sharded_run_resumes_bitwise_and_equals_a_copied_one(tmp_path: Path) -> None:
    run = train(tmp_path, steps=4, sharded=True)
    assert (run / "previews" / "step-0000004.png").exists()
    whole = student(run)
    for path in ("checkpoints/step-0000004", "student"):
        (run / path).rename(tmp_path / Path(path).name)
    assert largest_difference(student(train(tmp_path, steps=4, sharded=True)), whole) == 0

    copied = train(tmp_path, steps=4)
    checkpoint = copied / "checkpoints" / "step-0000004"
    assert {p.name for p in checkpoint.glob("random_states_*")} == {"random_states_0.pkl", "random_states_1.pkl"}
    assert largest_difference(student(copied), whole) < 1e-6
    trained = {name for name, tensor in whole.items() if "lora_B" in name and bool(tensor.any())}
    assert trained  # LoRA's second factor starts at zero
