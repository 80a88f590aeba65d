"""FSDP2 on CPU processes: from the meta device on, every process reads its slices and holds its shard alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import PARITY

from piflow_cli.errors import ModelError
from piflow_cli.io.tensors.slices import SlicedWeights

SCRIPT = Path(__file__).with_name("sharded_build.py")
TEXT = ["teacher.width=48", "teacher.height=64", "adapter.rank=4"]
PRECISION = ["training.mixed_precision=no", "training.teacher_dtype=float32"]
FAMILIES = {
    "flux": ["flux-4nfe-datafree", f"teacher.source={PARITY / 'e2e_flux' / 'pipeline'}", *TEXT, *PRECISION],
    "qwen": ["qwen-4nfe-datafree", f"teacher.source={PARITY / 'e2e_qwen' / 'pipeline'}", *TEXT, *PRECISION],
    "dit": ["digits-1nfe", "training.teacher_dtype=bfloat16"],
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_shards_are_those_of_the_whole_student(family: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(SCRIPT)]
    ended = subprocess.run(
        [*command, *FAMILIES[family]],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    said = re.findall(r"rank (\d): difference ([\d.e-]+), holds ([\d.]+)", ended.stdout)
    assert {rank for rank, _, _ in said} == {"0", "1"}, ended.stderr[-3000:]
    assert all(float(difference) == 0 for _, difference, _ in said)
    assert all(0.4 < float(held) < 0.6 for _, _, held in said), said


def test_slices_are_those_of_the_tensors(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(24.0).view(4, 6), "b": torch.arange(5.0)}
    save_file({"a": tensors["a"]}, tmp_path / "1.safetensors")
    torch.save({"b": tensors["b"]}, tmp_path / "2.pth")
    files = SlicedWeights([tmp_path / "1.safetensors", tmp_path / "2.pth"], rename=lambda name: f"m.{name}")
    assert sorted(files.names()) == ["m.a", "m.b"]
    assert "m.a" in files
    assert files.shape("m.a") == (4, 6)
    assert files.shape("m.b") == (5,)
    assert torch.equal(files.read("m.a", (slice(1, 3), slice(0, 6))), tensors["a"][1:3])
    assert torch.equal(files.read("m.b", (slice(2, 5),)), tensors["b"][2:])
    assert torch.equal(files.read("m.b"), tensors["b"])
    with pytest.raises(ModelError, match=r"have no m\.c"):
        files.read("m.c")
    files.close()
    (tmp_path / "3.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        SlicedWeights([tmp_path / "3.safetensors"])
