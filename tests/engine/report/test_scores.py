"""The page of a benchmark: its table, its plots with intervals, its pictures."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, WITHOUT, Tab, browser
from cli_runner import run as run_command
from PIL import Image
from read_pages import Page

from piflow_cli.cli.benchmarking.page import write_page
from piflow_cli.engine.benchmark.gauge import BenchmarkRow
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.benchmark.showing.album import Album
from piflow_cli.engine.report.scores import score_charts

HOSTILE = "</script><script>alert(1)</script>"


def row(model: str, nfe: int, fid: float, *, kind: str = "student", **facts: object) -> BenchmarkRow:
    method = "gmflow" if kind == "student" else "euler"
    cost = {"network_calls": 2.0 * nfe, "shift": 1.0, "network_s": 0.002 * nfe, "policy_s": 0.0005}
    scores = {"fid": fid, "accuracy": 0.9}
    found = BenchmarkRow(model=model, kind=kind, method=method, steps=nfe, nfe=nfe, scores=scores, **cost)
    return replace(found, **facts)


RESULT = BenchmarkResult(
    rows=(
        row("one", 1, 3.0, intervals={"fid": (2.8, 3.2)}, paired_error=0.4),
        row("four", 4, 1.9, paired_error=0.2, h=0.5),
        row("teacher", 32, 1.8, kind="teacher", intervals={"fid": (1.7, 1.9)}),
        row("teacher", 1, 90.0, kind="teacher", intervals={"fid": (80.0, 100.0)}, paired_error=0.9),
        row("teacher", 8, float("nan"), kind="teacher", paired_error=0.1),
    ),
    titles={"fid": "FID", "accuracy": "accuracy"},
    better={"fid": "lower", "accuracy": "higher"},
    samples=1000,
    seed=3,
    reference="photos",
    reference_samples=500,
    detector="inception",
    teacher_rows=("teacher euler 32 steps",),
    warnings=(),
    device="cpu",
    doubts=("FID of few pictures",),
)


class Asked:
    """Stands for the questions and the sampler of a row."""

    kind, model, method, nfe, h, quantization = "student", "one", "gmflow", 1, 0.0, "none"

    def __init__(self, prompts: list[str]) -> None:
        self.asked = prompts

    def prompts(self, start: int, stop: int) -> list[str]:
        return self.asked[start:stop]

    def pictures(self, start: int, stop: int) -> list[tuple]:
        return [()] * (stop - start)


def test_plots_have_a_line_a_sampler_and_bars_where_intervals_are_known() -> None:
    over_nfe, over_time, *others = score_charts(RESULT)
    assert [(c.title, c.x_label, c.log_x) for c in (over_nfe, over_time)] == [
        ("FID", "evaluations", 2),
        ("FID", "ms a picture", 10),
    ]
    assert [chart.title for chart in others] == ["accuracy"] * 2 + ["Paired distance"] * 2
    one, four, teacher = over_nfe.lines
    assert (one.label, one.x, one.y, one.low, one.high) == ("one gmflow", (1,), (3.0,), (2.8,), (3.2,))
    assert (four.label, four.low) == ("four gmflow, h 0.5", ())
    assert (teacher.x, teacher.y, teacher.low) == ((1, 8, 32), (90.0, None, 1.8), (80.0, None, 1.7))
    assert over_time.lines[2].x == (2.5, 16.5, 64.5)
    assert (over_nfe.note, over_nfe.log_y) == ("over evaluations; lower is better", True)
    assert others[-1].lines[2].x == (2.5, 16.5), "the longest row has no distance to itself"


def test_the_page_says_what_the_table_says(tmp_path: Path) -> None:
    result = replace(RESULT, rows=(replace(RESULT.rows[0], model=HOSTILE), *RESULT.rows[1:]), prompts=HOSTILE)
    write_page(replace(result, num_prompts=7), Album(), tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    page.check_closed()
    said = " ".join(page.words)
    for words in (
        f"Benchmark of {HOSTILE} and four",
        "1,000 pictures a row of 7 prompts",
        "model method NFE h FID ↓ accuracy ↑ paired ms/pic policy",
        "FID of few pictures",
        "ratio: to the score of teacher euler 32 steps",
    ):
        assert words in said, words
    assert page.pictures() == []


def test_an_album_keeps_the_first_pictures_of_each_row() -> None:
    album, prompts = Album(count=3), [f"prompt {i}" for i in range(6)]
    first, second, questions = Asked(prompts), Asked(prompts), Asked(prompts)
    assert album.sheet() is None
    for sampler in (first, second):
        for start in (0, 4):  # another process draws 2 and 3
            album.take(sampler, torch.rand(2, 3, 16, 16), start=start, questions=questions)
    assert album._labels == ["prompt 0", "prompt 1", "prompt 4"]
    assert [len(pictures) for pictures in album._rows.values()] == [3, 3]
    sheet = album.sheet()
    assert sheet.width > 3 * 128
    assert sheet.height > 2 * 128


def test_the_command_writes_a_page_with_pictures(tmp_path: Path) -> None:
    line = ["benchmark", "--metric", "accuracy", "--model", "digits-1nfe", "--samples", 20, "--teacher-steps", "1,2"]
    ended = run_command(*line, "--device", "cpu", "--intervals", 0, "--report", "page.html", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "written to page.html" in ended.stderr
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    page.check_closed()
    assert len(page.pictures()) == 1
    labels = [line["label"] for line in page.charts[0]["lines"]]
    assert labels == ["digits-1nfe gmflow", "zoo:digits euler"]
    for words in ended.stdout.splitlines()[-1:]:
        assert words in " ".join(page.words)
    refused = run_command(*line, "--report", "page.pdf", cwd=tmp_path)
    assert (refused.returncode, "no .html file" in refused.stderr) == (2, True)


def test_plots_have_a_line_for_each_way_to_hold_the_base() -> None:
    whole = row("one", 1, 3.0)
    quantised = row("one", 1, 3.1, quantization="torchao-int8", whole_error=0.02, changes={"fid": 0.1})
    charts = score_charts(replace(RESULT, rows=(whole, quantised)))
    assert [line.label for line in charts[0].lines] == ["one gmflow", "one gmflow, torchao-int8"]
    distance = [chart for chart in charts if chart.title == "Distance to the whole base"]
    assert [line.y for line in distance[0].lines] == [(), (0.02,)]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)
@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_is_drawn_in_peace(tab: Tab, width: int, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(RESULT, Album(), path)
    tab.open(path, width=width)
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert tab.value("document.querySelectorAll('.chart canvas').length") == 6
    assert tab.requested() == {path.as_uri()}
    assert tab.complaints() == []
    tab.screenshot(tmp_path / "page.png")
    assert Image.open(tmp_path / "page.png").width == width
