"""Validation: the same pictures every time, written down and shown, the best kept, and none of it in the way."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import assert_same, stop_at
from safetensors.torch import load_file

from piflow_cli.engine.distill import distill
from piflow_cli.engine.distill.events import DistillEvent
from piflow_cli.engine.distill.resume.snapshot import read_tensors
from piflow_cli.engine.distill.showing.drawing import Drawer
from piflow_cli.engine.sample import sample
from piflow_cli.engine.students.load import load_student
from piflow_cli.errors import DataError, ModelError, PartnerError, PresetError
from piflow_cli.preset import Preset, load_preset

TINY = (
    "training.batch_size=4",
    "training.checkpoint_every=2",
    "training.checkpoints_kept=3",
    "training.preview_every=0",
    "optimizer.warmup_steps=1",
    "sampling.total_substeps=16",
)
ASKED = ("validation.every=2", "validation.prompts=['3', 'seven']", "validation.seeds=[1, 5]", "validation.nfe=[1, 2]")
MEASURED = ("validation.samples=40", "validation.metrics=['fid', 'accuracy']")


def tiny(*overrides: str, steps: int = 6) -> Preset:
    return load_preset("digits-1nfe", [*TINY, f"training.steps={steps}", *ASKED, *overrides])


def rows(run: Path) -> list[dict]:
    """What validations found, without how long they took."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key != "validation/wall_s"} for row in found if "loss" not in row
    ]


def losses(run: Path) -> list[float]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in found if "loss" in row]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DistillEvent]]:
    events: list[DistillEvent] = []
    run = tmp_path_factory.mktemp("runs") / "whole"
    distill(tiny(*MEASURED), out=run, device="cpu", on_event=events.append)
    return run, events


def test_errors_and_scores_are_written_down_and_told(whole: tuple[Path, list[DistillEvent]]) -> None:
    run, events = whole
    found = rows(run)
    assert [row["step"] for row in found] == [2, 4, 6]
    columns = [f"validation/{name}_{nfe}nfe" for nfe in (1, 2) for name in ("paired_error", "fid", "accuracy")]
    assert all([*row] == ["step", *columns] for row in found)
    assert all(0 < row["validation/paired_error_1nfe"] < 0.5 for row in found)
    told = [event for event in events if event.kind == "validation"]
    assert [event.path for event in told] == [run / "validation" / f"step-{step:07d}.png" for step in (2, 4, 6)]
    assert told[0].message.startswith("1 NFE: paired error 0.")
    assert told[0].message.endswith("; the best so far")


def test_the_sheet_says_what_it_shows(whole: tuple[Path, list[DistillEvent]]) -> None:
    sheet = Image.open(whole[0] / "validation" / "step-0000004.png")
    assert sheet.text["prompts"].splitlines() == ["3", "3", "seven", "seven"]
    facts = {key: sheet.text[key] for key in ("seeds", "nfe", "step", "teacher")}
    assert facts == {"seeds": "1, 5, 1, 5", "nfe": "1, 2", "step": "4", "teacher": "zoo:digits"}
    assert float(sheet.text["validation/paired_error_2nfe"]) == rows(whole[0])[1]["validation/paired_error_2nfe"]


def test_it_draws_what_sample_draws(whole: tuple[Path, list[DistillEvent]]) -> None:
    run, _ = whole
    drawn = sample(["3"], model=str(run), seeds=[5], device="cpu").images[0]
    sheet = Image.open(run / "validation" / "step-0000006.png").convert("L")
    size = 128
    left, top = 116 + (size + 4), sheet.height - 2 * (size + 4) - 4
    cell = sheet.crop((left, top, left + size, top + size)).resize((8, 8), Image.Resampling.NEAREST)
    difference = [abs(a - b) for a, b in zip(cell.tobytes(), drawn.convert("L").tobytes(), strict=True)]
    assert max(difference) <= 1


def test_the_best_student_is_one_by_itself(whole: tuple[Path, list[DistillEvent]]) -> None:
    run, _ = whole
    best = min(rows(run), key=lambda row: row["validation/paired_error_1nfe"])
    record = json.loads((run / "best" / "validation.json").read_text())
    assert (record["step"], record["paired_error"]) == (best["step"], best["validation/paired_error_1nfe"])
    for name in (f"{run}@best", str(run / "best")):
        assert load_student(name).card.steps == best["step"]
    checkpoint = read_tensors(run / "checkpoints" / f"step-{best['step']:07d}", "average.")
    kept = load_file(run / "best" / "student.safetensors")
    assert_same(kept, {name.removeprefix("average."): tensor for name, tensor in checkpoint.items()})


def test_it_changes_nothing_of_the_training(whole: tuple[Path, list[DistillEvent]], tmp_path: Path) -> None:
    distill(tiny("validation.every=0"), out=tmp_path / "without", device="cpu")
    assert losses(tmp_path / "without") == losses(whole[0])
    assert_same(*(read_tensors(run / "checkpoints" / "step-0000006") for run in (tmp_path / "without", whole[0])))
    with pytest.raises(ModelError, match=r"keeps no best student.*validation\.every"):
        load_student(f"{tmp_path / 'without'}@best")


@pytest.mark.parametrize("step", [3, 4])
def test_a_run_that_was_stopped_finds_the_same(
    whole: tuple[Path, list[DistillEvent]], tmp_path: Path, step: int
) -> None:
    run = tmp_path / "parts"
    distill(tiny(*MEASURED), out=run, device="cpu", on_event=stop_at(step))
    distill(tiny(*MEASURED), out=run, device="cpu")
    assert rows(run) == rows(whole[0])
    best = [load_file(folder / "best" / "student.safetensors") for folder in (run, whole[0])]
    assert_same(*best)
    records = [(folder / "best" / "validation.json").read_text() for folder in (run, whole[0])]
    assert records[0] == records[1]


def test_a_validation_that_a_kill_took_is_made_good(whole: tuple[Path, list[DistillEvent]], tmp_path: Path) -> None:
    run = tmp_path / "killed"
    distill(tiny(*MEASURED), out=run, device="cpu", stop_after=4)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))  # as if killed after the checkpoint
    distill(tiny(*MEASURED), out=run, device="cpu")
    assert rows(run) == rows(whole[0])


def test_another_scene_begins_with_a_best_of_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    distill(tiny(steps=2), out=run, device="cpu")
    record = run / "best" / "validation.json"
    kept = json.loads(record.read_text())
    record.write_text(json.dumps(kept | {"paired_error": 0.0}))  # nothing is better
    distill(tiny(steps=4), out=run, device="cpu")
    assert json.loads(record.read_text())["step"] == 2
    distill(tiny("validation.seeds=[9]", steps=6), out=run, device="cpu")
    assert json.loads(record.read_text())["step"] == 6


def test_a_student_that_is_not_finite_is_told_of_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from piflow_cli.engine.distill.showing import drawing

    monkeypatch.setattr(drawing, "sample_student", lambda *_, **__: torch.full((4, 1, 8, 8), math.nan))
    events: list[DistillEvent] = []
    result = distill(tiny(steps=2), out=tmp_path / "run", device="cpu", on_event=events.append)
    assert result.step == 2
    told = [event.message for event in events if event.kind == "warning"]
    assert told[0].startswith("no validation of step 2, and training goes on: the student of step 2 drew latents")
    assert not rows(tmp_path / "run")


@pytest.mark.parametrize("kind", ["preview", "validation"])
def test_pictures_that_are_not_finite_on_another_process_end_nothing_here(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is where the others hear of it by a PartnerError."""

    def failing(*_: object, **__: object) -> None:
        raise PartnerError(rank=1, message="not finite")

    monkeypatch.setattr(Drawer, "by_student", failing)
    events: list[DistillEvent] = []
    shown = "training.preview_every=2" if kind == "preview" else "training.preview_every=0"
    preset = tiny(shown, *(["validation.every=0"] if kind == "preview" else []), steps=2)
    assert distill(preset, out=tmp_path / "run", device="cpu", on_event=events.append).step == 2
    told = [event.message for event in events if event.kind == "warning"]
    assert told[0].startswith(f"no {kind} of step 2, and training goes on: the process of rank 1 failed: not finite")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("validation.width=64",), "validation: set width and height"),
        (("validation.metrics=['fud']",), "validation.metrics.0: one of fid, kid, "),
        (("validation.seeds=[]",), "validation.seeds"),
        (("validation.nfe=[0]",), "validation.nfe"),
        (("validation.prompts=['3', '4']", f"validation.seeds={list(range(200))}"), "times seeds makes 400"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_key(changes: tuple[str, ...], words: str) -> None:
    with pytest.raises(PresetError) as refused:
        tiny(*changes)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("validation.prompts=['eleventy']",), "no class 'eleventy'"),
        (("validation.width=16", "validation.height=16"), "draws 8x8 pixels, not 16x16"),
        (("validation.samples=8", "validation.metrics=['diversity']"), "diversity needs pictures of its own"),
        (("validation.samples=8", "validation.reference='none'"), "none"),
    ],
)
def test_what_cannot_be_had_is_said_before_the_first_step(tmp_path: Path, changes: tuple[str, ...], words: str) -> None:
    with pytest.raises(DataError, match=words):
        distill(tiny(*changes), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_trackers_get_numbers_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tracker's own package is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    distill(tiny("training.trackers=['tensorboard']", steps=2), out=run, device="cpu")
    log = EventAccumulator(str(run / "logs" / "piflow"))
    log.Reload()
    (scalar,) = log.Scalars("validation/paired_error_1nfe")
    assert scalar.value == pytest.approx(rows(run)[0]["validation/paired_error_1nfe"])
    (picture,) = log.Images("validation")
    assert (picture.step, picture.height) == (2, Image.open(run / "validation" / "step-0000002.png").height)
