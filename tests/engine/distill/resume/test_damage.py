"""Whatever happens to a file of the newest checkpoint, a run goes on from an older one and says so, or says why not."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import assert_same
from safetensors.torch import load_file

from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.distill.resume.checkpoints import CARD, Checkpoints
from piflow_cli.errors import StorageError
from piflow_cli.io.checksums import MANIFEST
from piflow_cli.preset import Preset, load_preset

TENSORS = "shard-00001-model-00001-of-00001.safetensors"
FILES = (CARD, MANIFEST, TENSORS)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    path.write_bytes(content)


def flip_in_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[min(40, len(content) - 1)] ^= 4
    path.write_bytes(content)


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def write_other_json(path: Path) -> None:
    path.write_text('{"step": 7}')


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


DAMAGES = (
    empty,
    cut,
    flip,
    flip_in_the_header,
    fill_with_zeros,
    write_other_json,
    make_a_folder,
    append,
    Path.unlink,
)


def recipe(steps: int = 6) -> Preset:
    small = (
        "training.batch_size=2",
        "training.checkpoint_every=2",
        "training.preview_every=0",
        "optimizer.warmup_steps=1",
    )
    return load_preset("digits-1nfe", [*small, f"training.steps={steps}", "training.checkpoints_kept=3"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints of steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    distill(recipe(), out=folder, device="cpu")
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_before_anything_is_loaded(run: Path, name: str, damage: Callable[[Path], None]) -> None:
    newest = run / "checkpoints" / "step-0000006"
    damage(newest / name)
    card, notes = Checkpoints(run / "checkpoints").newest_whole()
    if name == MANIFEST and damage is append:  # a byte after its end, which JSON does not mind or does
        assert card is not None
        assert card.step in (4, 6)
        return
    assert card is not None
    assert card.step == 4
    assert len(notes) == 1
    assert "step-0000006 is damaged" in notes[0]
    assert (run / "checkpoints" / "damaged-step-0000006" / name).exists() or damage is Path.unlink
    assert not newest.exists()


@pytest.mark.parametrize("name", FILES)
def test_files_of_others_among_the_tensors_are_damage(run: Path, name: str) -> None:
    newest = run / "checkpoints" / "step-0000006"
    shutil.copy(run / "checkpoints" / "step-0000004" / TENSORS, newest / f"{name}.safetensors")
    assert Checkpoints(run / "checkpoints").newest_whole()[0].step == 4


def test_a_checkpoint_under_the_name_of_another_step_is_damaged(run: Path) -> None:
    shutil.copytree(run / "checkpoints" / "step-0000002", run / "checkpoints" / "step-0000008")
    card, notes = Checkpoints(run / "checkpoints").newest_whole()
    assert card.step == 6
    assert "it is of step 2" in notes[0]


def test_a_run_goes_on_from_the_older_one_and_ends_in_the_same_student(run: Path, trained: Path) -> None:
    flip(run / "checkpoints" / "step-0000006" / TENSORS)
    events: list[DistillEvent] = []
    result = distill(recipe(), out=run, device="cpu", on_event=events.append)
    warnings = [event.message for event in events if event.kind == "warning"]
    assert len(warnings) == 1
    assert "step-0000006 is damaged" in warnings[0]
    assert [event.message for event in events if event.kind == "start"] == ["resumed from step 4"]
    assert (result.step, result.interrupted) == (6, False)
    student = [load_file(folder / "student" / "student.safetensors") for folder in (run, trained)]
    assert_same(student[0], student[1])
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3, 4, 5, 6]
    assert (run / "checkpoints" / "damaged-step-0000006" / TENSORS).exists()


def test_no_whole_checkpoint_is_an_error_that_removes_nothing(run: Path) -> None:
    for step in (2, 4, 6):
        cut(run / "checkpoints" / f"step-000000{step}" / TENSORS)
    before = sorted(path for path in run.rglob("*") if path.is_file())
    for _ in range(2):  # the second attempt is refused as the first
        with pytest.raises(StorageError, match=r"no checkpoint in .* can be used: step-0000006 is damaged"):
            distill(recipe(), out=run, device="cpu")
    assert sorted(path for path in run.rglob("*") if path.is_file()) == before


def test_checkpoints_with_pickles_are_refused_unopened(run: Path, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "canary",))

    for step in (2, 4, 6):
        folder = run / "checkpoints" / f"step-000000{step}"
        for path in folder.iterdir():
            path.unlink()
        torch.save({"step": Touch()}, folder / "custom_checkpoint_0.pkl")
    with pytest.raises(StorageError, match="earlier version of piflow, whose pickles are not opened"):
        distill(recipe(), out=run, device="cpu")
    assert not (tmp_path / "canary").exists()


def test_pickles_beside_a_whole_checkpoint_are_not_opened(run: Path, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "canary",))

    for name in ("custom_checkpoint_0.pkl", ".metadata", "optimizer.bin"):
        (run / "checkpoints" / "step-0000006" / name).write_bytes(pickle.dumps({"step": Touch()}))
    shutil.rmtree(run / "student")
    assert distill(recipe(8), out=run, device="cpu").step == 8
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "damage", [empty, cut, fill_with_zeros, make_a_folder, write_other_json], ids=lambda d: d.__name__
)
def test_unreadable_metrics_do_not_block_a_run(run: Path, damage: Callable[[Path], None]) -> None:
    damage(run / "metrics.jsonl")
    assert distill(recipe(7), out=run, device="cpu").step == 7
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1] == 7
    assert rows == sorted(set(rows))


@pytest.mark.parametrize("name", ["preset.json", "sources.json"])
@pytest.mark.parametrize("text", ["", "[]", "null", '{"name": 3}', "\0" * 40, "[" * 100_000])
def test_a_damaged_preset_is_a_known_error(run: Path, name: str, text: str) -> None:
    (run / name).write_text(text)
    if name == "sources.json" and text == '{"name": 3}':
        assert distill(recipe(), out=run, device="cpu").step == 6  # it names none of the files in use
        return
    with pytest.raises(StorageError, match=name):
        distill(recipe(), out=run, device="cpu")
