"""Damage to a checkpoint of two processes that each hold a part (FSDP2): found, named, and the older one used."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from piflow_cli.engine.distill.resume.checkpoints import CARD, Checkpoints
from piflow_cli.io.checksums import MANIFEST

LINE = (
    "distill", "--preset", "digits-1nfe", "--device", "cpu", "--batch-size", "4", "--num-processes", "2", "--strategy",
    "fsdp2",
)  # fmt: skip
SETS = (
    "optimizer.name=adamw", "training.checkpoint_every=1", "training.preview_every=0", "training.checkpoints_kept=3",
    "optimizer.warmup_steps=1",
)  # fmt: skip


def train(folder: Path, *, steps: int, out: str = "run") -> str:
    """Train on two processes to a step; returns what was said."""
    sets = [word for text in SETS for word in ("--set", text)]
    line = [sys.executable, "-m", "piflow_cli", *LINE, *sets, "--steps", str(steps), "--out", out]
    ended = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=400, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("sharded")
    train(folder, steps=3)
    return folder / "run"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def swap(path: Path) -> None:
    """The file of this process of the step before: whole, and of another time."""
    shutil.copy(path.parents[1] / "step-0000002" / path.name, path)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, cut, swap, Path.unlink], ids=lambda damage: damage.__name__)
def test_damage_to_the_part_of_any_process_is_found_and_named(
    trained: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    newest = trained / "checkpoints" / "step-0000003"
    card = json.loads((newest / CARD).read_text())
    parts = sorted(path.name for path in newest.glob("*.safetensors"))
    assert (card["sharded"], card["num_processes"], len(parts)) == (True, 2, 2)
    for name in (*parts, CARD, MANIFEST):
        if damage is cut and name == MANIFEST:
            continue  # it is shorter than what is cut off
        copy = Path(shutil.copytree(trained / "checkpoints", tmp_path / name / "checkpoints"))
        damage(copy / "step-0000003" / name)
        found, notes = Checkpoints(copy).newest_whole()
        assert found is not None
        assert found.step == 2
        assert len(notes) == 1
        assert "step-0000003 is damaged" in notes[0]
        assert name in notes[0] or name == MANIFEST
        assert (copy / "damaged-step-0000003").is_dir()


@pytest.mark.slow
def test_a_sharded_run_goes_on_from_the_older_checkpoint_to_the_same_student(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-0000003"
    part = sorted(newest.glob("*.safetensors"))[-1]
    flip(part)
    said = train(tmp_path, steps=4)
    assert f"step-0000003 is damaged ({part.name}); it is kept as damaged-step-0000003" in said
    assert "resumed from step 2" in said
    assert (tmp_path / "run" / "checkpoints" / "damaged-step-0000003" / part.name).exists()
    train(tmp_path, steps=4, out="straight")
    ours, theirs = (load_file(tmp_path / run / "student" / "student.safetensors") for run in ("run", "straight"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
