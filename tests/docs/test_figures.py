"""Tables and pictures of the pages are what their commands make: nobody's hand, no older command, no older protocol."""

import json
from importlib import import_module
from typing import Any

import pytest
from cli_runner import run
from PIL import Image
from pydantic import TypeAdapter

from piflow_cli.cli.benchmarking.table import print_result
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.benchmark.rows import Measured
from piflow_cli.speed.figures import ROOT, Figure, block_of, figures, with_block

FIGURES = {figure.name: figure for figure in figures()}
TABLES = [figure for figure in FIGURES.values() if figure.page is not None]
PICTURES = [figure for figure in FIGURES.values() if figure.picture is not None]
by_name = {"ids": lambda figure: figure.name}


def test_a_block_is_replaced_and_the_rest_of_a_page_stays() -> None:
    figure = Figure("one", "piflow benchmark --metric fid", page="README.md")
    page = "before <!-- figure one -->\nold\n<!-- end of one --> after <!-- figure two -->2<!-- end of two -->"
    made = with_block(page, figure, "table\n")
    assert block_of(made, "one") == "\n```console\n$ piflow benchmark --metric fid\ntable\n```\n"
    assert with_block(made, figure, "table\n") == made
    assert made.startswith("before <!-- figure one -->")
    assert made.endswith(" after <!-- figure two -->2<!-- end of two -->")
    with pytest.raises(ValueError, match="no <!-- figure three -->"):
        block_of(page, "three")


@pytest.mark.parametrize("figure", TABLES, **by_name)
def test_a_table_is_what_its_numbers_print(figure: Figure, capsys: pytest.CaptureFixture[str]) -> None:
    """Every digit, interval and note: the page is the table of the JSON that its command wrote."""
    page, kept = (ROOT / figure.page).read_text("utf-8"), json.loads(figure.numbers.read_text("utf-8"))
    print_result(TypeAdapter(BenchmarkResult).validate_python(kept))
    assert with_block(page, figure, capsys.readouterr().out) == page
    assert f"protocol {kept['fingerprint']}" in block_of(page, figure.name)


@pytest.mark.parametrize("figure", TABLES, **by_name)
def test_its_protocol_is_what_would_be_measured_by_today(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the versions of libraries: when they change, numbers are compared by `--compare`, not made anew."""
    measuring = import_module("piflow_cli.engine.benchmark.benchmark")  # a function of the same name hides it
    monkeypatch.setattr(measuring, "measure_seeds", lambda gauge, *_: Measured([], [], gauge.references))
    told = run(*figure.arguments, "--device", "cpu", "--json", "-", cwd=ROOT)
    assert told.returncode == 0, told.stderr
    assert without_versions(json.loads(told.stdout)) == without_versions(json.loads(figure.numbers.read_text("utf-8")))


def without_versions(result: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in result["protocol"].items() if name != "versions"}


@pytest.mark.parametrize("figure", PICTURES, **by_name)
def test_a_picture_says_what_its_command_asked_for(figure: Figure) -> None:
    options = figure.arguments
    prompts = options[1 : next(i for i, option in enumerate(options) if option.startswith("--"))]
    with Image.open(ROOT / figure.picture) as picture:
        said = picture.info
    assert said["prompt"] == ", ".join(prompts)
    models = said["models"].split("; ")
    assert len(models) == 1 + len(options[options.index("--beside") + 1].split(","))
    typed = (ROOT / "README.md").read_text("utf-8").replace("\\\n", " ").split()
    assert " ".join(figure.command.split()) in " ".join(typed)


def test_figures_are_where_the_pages_say() -> None:
    """Every mark of a page is of a figure that is listed."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        marks = [part.split(" -->")[0] for part in page.read_text("utf-8").split("<!-- figure ")[1:]]
        assert all(FIGURES[name].page == page.relative_to(ROOT).as_posix() for name in marks)
