"""Which device each process takes, and runs one after another in one Python process."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from piflow_cli.engine.distill import distill
from piflow_cli.engine.processes.world import World, own_device
from piflow_cli.errors import DeviceError
from piflow_cli.preset import load_preset

TINY = (
    "training.steps=2",
    "training.batch_size=4",
    "training.preview_every=0",
    "optimizer.warmup_steps=0",
    "sampling.total_substeps=16",
)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that seems to have two GPUs; nothing is computed on them."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return monkeypatch


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_one_process_takes_what_is_named(two_gpus: pytest.MonkeyPatch, device: str) -> None:
    assert own_device(device, World()) == device


def test_each_of_several_takes_the_gpu_of_its_number_on_the_machine(two_gpus: pytest.MonkeyPatch) -> None:
    two_gpus.setenv("LOCAL_WORLD_SIZE", "2")
    worlds = [World(rank=rank, size=4, local_rank=rank % 2) for rank in range(4)]
    for device in ("auto", "cuda"):
        assert [own_device(device, world) for world in worlds] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert [own_device("cpu", world) for world in worlds] == ["cpu"] * 4


def test_several_processes_and_one_numbered_device_or_too_few_are_refused(two_gpus: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="device cuda:1: 2 processes take one device each; use --device cuda"):
        own_device("cuda:1", World(size=2))
    two_gpus.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(DeviceError, match=r"3 processes were started on a machine with 2 CUDA devices.*processes 2"):
        own_device("cuda", World(size=3))


def test_a_task_that_slurm_shows_one_gpu_takes_that(two_gpus: pytest.MonkeyPatch) -> None:
    two_gpus.setattr(torch.cuda, "device_count", lambda: 1)
    assert own_device("cuda", World(rank=3, size=4, local_rank=3)) == "cuda:0"


def test_the_machine_says_where_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert World.here() == World(rank=5, size=8, local_rank=1)


def test_a_run_leaves_nothing_to_the_next_one_in_its_python_process(tmp_path: Path) -> None:
    """float32, then bfloat16, then float32 again: the last is the first, bit for bit, and the one between differs."""
    students = []
    for i, precision in enumerate(("no", "bf16", "no")):
        preset = load_preset("digits-1nfe", [*TINY, f"training.mixed_precision='{precision}'"])
        distill(preset, out=tmp_path / str(i), device="cpu")
        students.append(load_file(tmp_path / str(i) / "student" / "student.safetensors"))
    first, between, last = students
    assert all(torch.equal(last[name], first[name]) for name in first)
    assert any(not torch.equal(between[name], first[name]) for name in first)
