"""A run may begin with a student, for another NFE, other data or more steps; one that does not fit is told why."""

import shutil
from pathlib import Path

import pytest
import torch
from cli_runner import run
from safetensors.torch import load_file, save_file

from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.students.find import embedded_students
from piflow_cli.errors import ModelError, PresetError
from piflow_cli.io.tensors.distributed import read_tensors
from piflow_cli.preset import Preset, load_preset
from piflow_cli.zoo import digits

TINY = (
    "training.batch_size=4",
    "training.checkpoint_every=1",
    "training.checkpoints_kept=9",
    "training.preview_every=0",
    "optimizer.warmup_steps=0",
    "sampling.total_substeps=16",
)
STILL = ("optimizer.learning_rate=1e-12",)
"""So that what a step leaves is what it began with."""


def tiny(*more: str, steps: int = 1, name: str = "digits-1nfe") -> Preset:
    return load_preset(name, [*TINY, f"training.steps={steps}", *more])


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    return load_file(run_folder / "student" / "student.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name].float(), b[name].float(), atol=1e-6) for name in a)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps that move."""
    out = tmp_path_factory.mktemp("runs") / "first"
    distill(tiny("optimizer.learning_rate=1e-2", "training.ema_gamma=0", steps=3), out=out, device="cpu")
    return out


@pytest.mark.parametrize("change", ["sampling.nfe=2", "data.type=noise", "training.steps=2", "policy.dropout=0.3"])
def test_a_run_begins_with_the_students_weights_and_average(first: Path, tmp_path: Path, change: str) -> None:
    events: list[DistillEvent] = []
    preset = tiny(*STILL, f"training.init={first}", change)
    distill(preset, out=tmp_path / "run", device="cpu", on_event=events.append)
    assert same(weights(tmp_path / "run"), weights(first))
    stored = read_tensors(tmp_path / "run" / "checkpoints" / "step-0000001")
    for kind in ("weights.", "average."):
        own = {name.removeprefix(kind): tensor for name, tensor in stored.items() if name.startswith(kind)}
        assert same(own, weights(first))
    assert any(f"begins with {first}, trained for 3 steps at 1 NFE" in event.message for event in events)
    distill(tiny(*STILL, change), out=tmp_path / "plain", device="cpu")
    assert not same(weights(tmp_path / "plain"), weights(first))


def test_a_checkpoint_can_be_begun_with_and_is_not_needed_to_go_on(first: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(first, tmp_path / "source"))
    preset = tiny(f"training.init={source}@2", steps=2)
    distill(preset, out=tmp_path / "whole", device="cpu")
    assert distill(preset, out=tmp_path / "parts", device="cpu", stop_after=1).interrupted
    shutil.rmtree(source)
    distill(preset, out=tmp_path / "parts", device="cpu")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(ModelError, match="no student"):
        distill(preset, out=tmp_path / "again", device="cpu")
    assert not (tmp_path / "again").exists()


REFUSED = {
    "family": ("emoji-4nfe", (), "teacher.type is flux there, dit here"),
    "policy": ("digits-1nfe", ("policy={type='dx', num_points=4}",), "policy.type is gmflow there, dx here"),
    "components": ("digits-1nfe", ("policy.num_components=4",), "policy.num_components is 8 there, 4 here"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_students_that_do_not_fit_are_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    source, changes, reason = REFUSED[name]
    with pytest.raises(PresetError, match=r"training\.init: a run of digits-1nfe cannot begin with") as caught:
        distill(tiny(*changes, f"training.init={source}"), out=tmp_path / "run", device="cpu")
    assert reason in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_another_teacher_is_known_by_its_weights_and_not_by_its_place(tmp_path: Path) -> None:
    teacher = Path(shutil.copytree(Path(digits.__file__).parent / "teacher", tmp_path / "moved"))
    preset = tiny(*STILL, "training.init=digits-1nfe", f"teacher.source={teacher}")
    distill(preset, out=tmp_path / "run", device="cpu")
    assert same(weights(tmp_path / "run"), load_file(embedded_students()["digits-1nfe"] / "student.safetensors"))
    file = teacher / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: 1.1 * tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(PresetError, match="it learnt from another teacher"):
        distill(preset, out=tmp_path / "other", device="cpu")


def test_adapters_begin_with_adapters_of_their_rank_and_layers(tmp_path: Path) -> None:
    small = ("training.batch_size=2", "training.preview_every=0", "optimizer.warmup_steps=0", *STILL)
    preset = load_preset("emoji-2nfe", [*small, "training.steps=1", "training.init=emoji-4nfe"])
    distill(preset, out=tmp_path / "run", device="cpu")
    assert same(weights(tmp_path / "run"), load_file(embedded_students()["emoji-4nfe"] / "student.safetensors"))
    for change, reason in (
        ("adapter.rank=8", "adapter.rank is 64 there, 8 here"),
        ("adapter.targets=['to_q']", "other layers"),
    ):
        other = load_preset("emoji-2nfe", [*small, "training.init=emoji-4nfe", change])
        with pytest.raises(PresetError, match=reason):
            distill(other, out=tmp_path / "other", device="cpu")


def test_the_command_line_begins_with_an_embedded_student(tmp_path: Path) -> None:
    changes = [part for setting in TINY for part in ("--set", setting)]
    line = ("distill", "--preset", "digits-2nfe", "--init", "digits-1nfe", "--steps", 1, *changes, "--out", "run")
    ended = run(*line, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "begins with digits-1nfe, trained for" in ended.stderr
    refused = run("distill", "--preset", "digits-2nfe", "--steps", 2, *changes, "--out", "run", cwd=tmp_path)
    assert (refused.returncode, "training.init: 'digits-1nfe' there, None now" in refused.stderr) == (1, True)
