"""FSDP2 on CPU processes: from the meta device on, every process reads its slices and holds its shard alone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import PARITY, TEACHERS

from piflow_cli.core.student import Student
from piflow_cli.engine.processes.gathered import gathered_bytes
from piflow_cli.errors import ModelError
from piflow_cli.io.tensors.slices import SlicedWeights
from piflow_cli.preset import load_preset

SCRIPT = Path(__file__).with_name("sharded_build.py")
PASSES_SCRIPT = Path(__file__).with_name("sharded_passes.py")
GATHERS_SCRIPT = Path(__file__).with_name("sharded_gathers.py")
TEXT = ["teacher.width=48", "teacher.height=64", "adapter.rank=4"]
PRECISION = ["training.mixed_precision=no", "training.teacher_dtype=float32"]
FAMILIES = {
    "flux": ["flux-4nfe-datafree", f"teacher.source={PARITY / 'e2e_flux' / 'pipeline'}", *TEXT, *PRECISION],
    "qwen": ["qwen-4nfe-datafree", f"teacher.source={PARITY / 'e2e_qwen' / 'pipeline'}", *TEXT, *PRECISION],
    "dit": ["digits-1nfe", "training.teacher_dtype=bfloat16"],
}


PASSES = {
    "flux": "flux-4nfe-datafree",
    "flux2": "flux2-klein-4nfe-datafree",
    "qwen_image": "qwen-4nfe-datafree",
    "qwen_image_2": "qwen-2-4nfe-datafree",
    "sd3": "sd3-4nfe-datafree",
    "wan": "wan-4nfe-datafree",
    "z_image": "z-image-4nfe-datafree",
}


def bfloat16_recipe(folder: Path, family: str) -> list[str]:
    """Arguments of `load_preset`: a published recipe on a family's random pipeline."""
    kept = {"source", "width", "height", "frames", "max_sequence_length"}
    changes = TEACHERS[family](folder / "teacher").model_dump(include=kept) | {"offload_encoders": False}
    small = ("adapter.rank=4", "policy.num_components=3", "policy.logstd_inner_dim=16")
    return [PASSES[family], *(f"teacher.{key}={json.dumps(value)}" for key, value in changes.items()), *small]


def run_on_two(script: Path, arguments: list[str], pattern: str) -> list[tuple[str, ...]]:
    """What both processes of a script said of themselves behind `rank N: `, by a pattern's groups."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*command, *arguments], capture_output=True, text=True, env=env, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return re.findall(rf"rank \d: {pattern}", ended.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_shards_are_those_of_the_whole_student(family: str) -> None:
    said = run_on_two(SCRIPT, FAMILIES[family], r"difference ([\d.e-]+), holds ([\d.]+)")
    assert len(said) == 2
    assert all(float(difference) == 0 for difference, _ in said)
    assert all(0.4 < float(held) < 0.6 for _, held in said), said


@pytest.mark.slow
@pytest.mark.parametrize("family", PASSES)
def test_passes_in_bfloat16_are_those_of_the_whole_network(tmp_path: Path, family: str) -> None:
    """What diffusers keeps in float32 (Wan's norms and tables) and what it loads as buffers (the positions of Stable
    Diffusion 3) is gathered as a copy holds it: no rounding of bfloat16, 4e-3, is left between them.

    Gradients are sums, of weights that are used twice in bfloat16.
    """
    said = run_on_two(PASSES_SCRIPT, bfloat16_recipe(tmp_path, family), r"(\w+) ([\d.e-]+)")
    assert sorted(name for name, _ in said) == ["gradients"] * 2 + ["student"] * 2 + ["teacher"] * 2
    for name, difference in said:
        assert float(difference) < (1e-3 if name == "gradients" else 1e-6), (name, difference)


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "whole", "precision"),
    [
        ("wan", True, "bf16"),
        ("wan", False, "bf16"),
        ("wan", True, "no"),
        ("flux", False, "bf16"),
        ("dit", True, "bf16"),
    ],
)
def test_what_passes_gather_is_what_is_reckoned(tmp_path: Path, family: str, whole: bool, precision: str) -> None:
    """Block, rest, and the most that was there at once; a whole student's teacher has a network of its own."""
    name, *changes = bfloat16_recipe(tmp_path, family) if family != "dit" else ["digits-1nfe"]
    preset = load_preset(name, changes)
    planned = gathered_bytes(
        preset.teacher,
        preset.policy,
        None if whole else preset.adapter,
        mixed_precision=precision,
        frozen_bytes=4 if precision == "no" else 2,
    )
    arguments = ["whole" if whole else "adapted", precision, name, *changes]
    said = run_on_two(GATHERS_SCRIPT, arguments, r"block (\d+) outside (\d+) most (\d+)")
    assert said == [tuple(map(str, (planned.block, planned.outside, planned.block + planned.outside)))] * 2


def test_only_what_is_gathered_as_it_is_held_is_cast_for_passes(tmp_path: Path) -> None:
    """By hand: all blocks of Wan hold a norm in float32, and the rest its time embedding; FLUX.1 has nothing so."""
    for family, adapted in (("wan", False), ("wan", True), ("flux", True)):
        name, *changes = bfloat16_recipe(tmp_path, family)
        preset = load_preset(name, changes)
        adapter = preset.adapter if adapted else None
        found = gathered_bytes(preset.teacher, preset.policy, adapter, mixed_precision="bf16", frozen_bytes=2)
        module, backbone = preset.teacher.describe()
        student = Student(module, backbone=backbone, family=preset.policy, adapter=adapter)
        trained = sum(parameter.numel() for parameter in student.own_parameters().values())
        assert found.as_held == (trained if family == "wan" else 0)
        whole = gathered_bytes(preset.teacher, preset.policy, adapter, mixed_precision="no", frozen_bytes=4)
        assert whole.as_held == 0
