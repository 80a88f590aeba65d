"""The page of runs: what it shows, what it survives, how large it becomes."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from cli_runner import run as run_command
from made_runs import make_run, row, write_lines
from PIL import Image
from read_pages import Page

from piflow_cli.engine.distill import distill
from piflow_cli.engine.report import thumbnails
from piflow_cli.engine.report.keeper import ReportKeeper
from piflow_cli.engine.report.run import MAX_FRAMES, PICTURE_BYTES, RunReader
from piflow_cli.engine.report.runs import MAX_RUNS, run_charts, runs_page, write_report
from piflow_cli.engine.report.thumbnails import Strip, spread, thumbnail
from piflow_cli.errors import DataError, StorageError
from piflow_cli.preset import load_preset

HOSTILE = "</script><img src=x onerror=alert(1)> \"'`{{7*7}} \u202e"
LIMIT_BYTES = 10_000_000


def page_of(*runs: Path) -> Page:
    out = runs[0].parent / "page.html"
    write_report(runs, out)
    found = Page(out.read_text(encoding="utf-8"))
    found.check_closed()
    return found


def test_a_run_is_shown_with_all_it_has(tmp_path: Path) -> None:
    found = page_of(make_run(tmp_path / "mine", overrides=("optimizer.learning_rate=0.002",)))
    titles = ["Loss", "Paired error", "FID", "Loss by segment", "Gradient norm", "Learning rate", "Images a second"]
    assert [chart["title"] for chart in found.charts] == titles
    loss, errors = found.charts[0]["lines"][0], found.charts[1]["lines"][0]
    assert (loss["x"][0], loss["x"][-1], len(loss["y"])) == (1, 200, 200)
    assert loss["y"][99] == pytest.approx(row(100)["loss"], rel=1e-5)
    assert (errors["x"], errors["label"], errors["marked"]) == ([100, 200], "2 NFE", True)
    assert len(found.pictures()) == 5
    said = " ".join(found.words)
    for words in (
        "zoo:digits into a student of 2 evaluations by gmflow",
        "step 200 of 200",
        "trained for 2m20s",
        "What differs from the preset digits-2nfe that ships: key digits-2nfe this run",
        "optimizer.learning_rate 0.003 0.002",
        "training.steps 1800 200",
        "device cpu, 2 of 2 cores",
        "2026-01-02 08:00:01 120 changed: training.steps 120 -> 200 1 process; batch 128 = 1 x 128",
    ):
        assert words in said, words


def test_a_preset_of_ones_own_is_held_against_what_it_extends(tmp_path: Path) -> None:
    for name, text, words in (
        ("mine", "[optimizer]\nlearning_rate = 0.002\n", "mine is a preset of its own. What differs from the preset"),
        ("same", "", "same changes nothing of the preset digits-2nfe that ships."),
    ):
        file, run = tmp_path / f"{name}.toml", make_run(tmp_path / name, steps=10)
        file.write_text(f'extends = "digits-2nfe"\n{text}')
        (run / "preset.json").write_text(load_preset(file).model_dump_json())
        said = " ".join(page_of(run).words)
        assert words in said
        assert ("optimizer.learning_rate 0.003 0.002" in said) == bool(text)
    alone = load_preset("digits-2nfe").model_copy(update={"name": "alone"})
    (tmp_path / "same" / "preset.json").write_text(alone.model_dump_json())
    assert "alone is a preset of its own, made from none that ships." in " ".join(page_of(tmp_path / "same").words)


def test_several_runs_share_their_charts(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a" / "run", steps=40), make_run(tmp_path / "b" / "run", steps=60, pictures=2)
    found = page_of(first, second)
    lines = {chart["title"]: [line["label"] for line in chart["lines"]] for chart in found.charts}
    assert lines["Loss"] == ["run", "run (2)"]
    assert lines["Loss by segment"] == ["run, segment 1", "run, segment 2", "run (2), segment 1", "run (2), segment 2"]
    assert [line["colour"] for line in found.charts[0]["lines"]] == [0, 1]
    assert "key run run (2) training.steps 40 60" in " ".join(found.words)
    with pytest.raises(DataError, match=f"9 runs on one page; {MAX_RUNS} can be told apart"):
        write_report([first] * 9, tmp_path / "page.html")


def test_what_others_wrote_stays_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "<b>run<script>")
    preset = json.loads((run / "preset.json").read_text())
    preset |= {"name": HOSTILE, HOSTILE: HOSTILE, "teacher": {"source": HOSTILE, "half": "\ud800"}}
    (run / "preset.json").write_text(json.dumps(preset))
    environment = {HOSTILE: HOSTILE, "run": HOSTILE, "nested": {"a": [1]}}
    write_lines(run / "starts.jsonl", [{"time": HOSTILE, "step": HOSTILE, "environment": environment}, 7, []])
    write_lines(run / "history.jsonl", [{"time": 5, "changes": [HOSTILE, None]}, {"changes": 3}])
    write_lines(run / "metrics.jsonl", [{"step": 1, "loss": 1.0, f"validation/{HOSTILE}_4nfe": 1.0, HOSTILE: 2}])
    found = page_of(run)
    assert [value for _, _, value in found.attributes if "onerror" in value] == []
    assert "</script><img src=x onerror=alert(1)>" in " ".join(found.words)
    assert "{{7*7}}" in found.html
    assert [chart["title"] for chart in found.charts] == ["Loss"]
    both = page_of(run, make_run(tmp_path / "other"))
    assert "onerror" not in both.scripts[0]
    assert "<b>run<script>" in " ".join(both.words)


@pytest.mark.parametrize("damage", ["empty", "binary", "folder", "gone", "device"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "preset.json", "starts.jsonl", "history.jsonl"])
def test_what_is_damaged_is_left_out_and_said(tmp_path: Path, name: str, damage: str) -> None:
    run = make_run(tmp_path / "run", steps=20)
    (run / name).unlink()
    if damage == "empty":
        (run / name).write_bytes(b"")
    elif damage == "binary":
        (run / name).write_bytes(bytes(range(256)) * 50)
    elif damage == "folder":
        (run / name).mkdir()
    elif damage == "device":
        (run / name).symlink_to("/dev/zero")
    found = page_of(run)
    assert bool(found.charts) == (name != "metrics.jsonl")
    assert len(found.pictures()) == 5
    if damage in ("binary", "folder", "device"):
        assert f"{name}" in " ".join(found.words)


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "previews" / "step-0000050.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (run / "previews" / "step-0000100.png").unlink()
    (run / "previews" / "step-0000100.png").mkdir()
    (run / "previews" / "notes.txt").write_text("no picture")
    assert len(page_of(run).pictures()) == 3
    (run / "metrics.jsonl").write_bytes(b"")
    for name in ("previews", "validation"):
        for path in (run / name).iterdir():
            path.rmdir() if path.is_dir() else path.unlink()
    empty = page_of(run)
    assert (empty.pictures(), empty.charts) == ([], [])
    assert "No step has been written down yet." in empty.words


@pytest.mark.parametrize("count", [0, 1, 5, 24, 25, 47, 48, 49, 1000])
def test_pictures_are_few_and_spread(count: int) -> None:
    steps = [(i, Path(str(i))) for i in range(count)]
    kept = spread(steps, MAX_FRAMES)
    assert len(kept) <= MAX_FRAMES
    assert kept[:1] + kept[-1:] == steps[:1] + steps[-1:]
    gaps = {b[0] - a[0] for a, b in pairwise(kept[:-1])}
    assert len(gaps) <= 1, "evenly, besides the last"
    assert count <= MAX_FRAMES or len(kept) > MAX_FRAMES // 2


def test_a_picture_has_the_bytes_it_may_have() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 3000, 3), dtype=np.uint8))
    for limit in (150_000, 5_000, 10):
        frame = thumbnail(noise, step=1, max_bytes=limit)
        assert len(frame.source) <= max(4 * limit / 3 + 100, 1500)
        assert frame.width <= thumbnails.WIDTH_PX
        assert frame.width / frame.height == pytest.approx(10, rel=0.3)
    assert 2 * MAX_FRAMES * (PICTURE_BYTES // (2 * MAX_FRAMES)) * 4 / 3 < 0.75 * LIMIT_BYTES


def test_a_page_of_many_runs_stays_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 600, 3), dtype=np.uint8)
    run = make_run(tmp_path / "run", steps=2000)
    for i in range(30):
        Image.fromarray(noise).save(run / "previews" / f"step-{i:07d}.png")
    write_report([run] * MAX_RUNS, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < LIMIT_BYTES
    assert (tmp_path / "page.html").stat().st_size > 1_000_000


def test_known_pictures_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(thumbnails, "read_picture", lambda path: made.append(path) or Image.open(path))
    strip = Strip(tmp_path, most=6, max_bytes=50_000)
    for step in range(1, 101):
        Image.new("RGB", (64, 32)).save(tmp_path / f"step-{step:07d}.png")
        assert len(strip.frames()) <= 6
    assert len(made) == 100
    os.utime(made[-1], ns=(1, 1))
    strip.frames()
    assert len(made) == 101, "a picture that was drawn anew"


def test_a_page_is_written_seldom_where_it_costs_much(tmp_path: Path) -> None:
    keeper = ReportKeeper(make_run(tmp_path / "run", steps=20), on_failure=pytest.fail)
    assert keeper.is_due
    keeper.write()
    assert 0 < keeper.cost_s < 5
    assert not keeper.is_due
    keeper.written -= 100 * keeper.cost_s
    assert keeper.is_due


def test_a_run_goes_on_where_its_page_cannot_be_written(tmp_path: Path) -> None:
    said: list[str] = []
    run = make_run(tmp_path / "run", steps=20)
    (run / "report.html").mkdir()
    keeper = ReportKeeper(run, on_failure=said.append)
    keeper.write()
    keeper.write()
    assert len(said) == 1
    assert "no report.html, and training goes on: cannot write" in said[0]


def test_a_run_writes_its_page_and_how_it_was_started(tmp_path: Path) -> None:
    tiny = [f"training.{key}=2" for key in ("preview_every", "preview_images", "checkpoint_every", "batch_size")]
    first = load_preset("digits-1nfe", [*tiny, "training.steps=2", "sampling.total_substeps=16"])
    longer = load_preset("digits-1nfe", [*tiny, "training.steps=4", "sampling.total_substeps=16"])
    run = tmp_path / "run"
    distill(first, out=run, device="cpu")
    once = Page((run / "report.html").read_text(encoding="utf-8"))
    distill(longer, out=run, device="cpu")
    twice = Page((run / "report.html").read_text(encoding="utf-8"))
    twice.check_closed()
    assert [len(page.pictures()) for page in (once, twice)] == [1, 2]
    assert [page.charts[0]["lines"][0]["x"] for page in (once, twice)] == [[1, 2], [1, 2, 3, 4]]
    said = " ".join(twice.words)
    assert "changed: training.steps 2 -> 4 1 process; batch 2 = 1 x 2" in said
    assert "torch" in said
    assert len((run / "starts.jsonl").read_text().splitlines()) == 2
    assert not list(run.glob(".partial-*"))


def test_charts_of_numbers_far_apart_are_logarithmic(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=10)
    write_lines(run / "metrics.jsonl", [{"step": i, "loss": 10.0**-i, "learning_rate": 10.0**-i} for i in range(5)])
    charts = run_charts([RunReader(run).look()], ["run"])
    assert [(chart.title, chart.log_y, chart.can_log) for chart in charts] == [
        ("Loss", True, True),
        ("Learning rate", False, True),
    ]
    assert charts[0].summary == "Loss over step. loss: 1 at 0, 0.0001 at 4"


def test_the_command_writes_beside_the_run_or_where_it_is_told(tmp_path: Path) -> None:
    make_run(tmp_path / "run", steps=10)
    ended = run_command("report", "run", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "run/report.html\n")
    ended = run_command("report", "run", "run", "--out", "both.html", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "both.html\n")
    assert "run (2)" in (tmp_path / "both.html").read_text(encoding="utf-8")
    assert run_command("report", "run", "--out", "page.txt", cwd=tmp_path).returncode == 2
    (tmp_path / "empty").mkdir()
    for name, words in (("empty", "empty holds no run"), ("nowhere", "nowhere is no folder")):
        ended = run_command("report", name, cwd=tmp_path)
        assert (ended.returncode, words in ended.stderr) == (1, True)
        assert not (tmp_path / name / "report.html").exists()


def test_a_run_of_another_place_is_no_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is no folder: name the folder that"):
        write_report([tmp_path / "gone"], tmp_path / "page.html")
    assert runs_page([RunReader(tmp_path).look()])
