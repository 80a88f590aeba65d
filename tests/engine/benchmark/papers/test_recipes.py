"""Recipes fill what nobody says, show the paper's figures, and say what is not as there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_runner import run
from tiny_detector import save_detector

from piflow_cli.engine.benchmark.papers.recipe import Recipe
from piflow_cli.engine.benchmark.papers.recipes import RECIPES, recipe_of
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.errors import DataError, PiflowError
from piflow_cli.metrics.detectors.torchscript import INCEPTION_NAME, INCEPTION_URL
from piflow_cli.metrics.metric import metric_of

NOTHING: dict[str, Any] = dict.fromkeys(("metrics", "samples", "prompts", "reference", "detector", "teacher_steps"))
MEASURED = BenchmarkResult(
    rows=(),
    titles={"fid": "FID"},
    better={"fid": "lower"},
    samples=3200,
    seed=0,
    reference="teacher euler 50 steps",
    reference_samples=3200,
    detector=INCEPTION_NAME,
    teacher_rows=("teacher euler 50 steps",),
    warnings=(),
    device="cpu",
    prompts="hpsv2:prompts",
    num_prompts=3200,
)


def test_flux_is_measured_as_in_the_paper_where_nothing_else_is_said() -> None:
    options = recipe_of("paper-flux").options(**NOTHING | {"prompts": "hpsv2:prompts"})
    assert options == {
        "metrics": ("fid", "patch-fid", "clip-score"),
        "samples": 3200,
        "prompts": "hpsv2:prompts",
        "reference": "teacher",
        "detector": INCEPTION_URL,
        "teacher_steps": (50,),
    }
    changes = {"prompts": "hpsv2:x", "samples": 8, "teacher_steps": (), "metrics": ["fid"], "detector": "i.pt"}
    assert recipe_of("paper-flux").options(**NOTHING | changes) == {"reference": "teacher"} | changes


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_asks_for_metrics_that_there_are_and_for_what_only_the_user_has(recipe: Recipe) -> None:
    columns = {column for spec in recipe.metrics for column in metric_of(spec).columns}
    assert all(set(row.scores) <= columns for row in recipe.published)
    if recipe.prompts is None:
        with pytest.raises(DataError, match="--reference"):
            recipe.options(**NOTHING)
    else:
        assert recipe.options(**NOTHING)["prompts"] == recipe.prompts


def test_what_is_as_in_the_paper_departs_in_what_is_not_known_alone() -> None:
    flux = recipe_of("paper-flux")
    for prompts in ("hpsv2:prompts", "hpsv2 of zhwang/HPDv2 at 0123456789ab", "hpsv2@main of zhwang/HPDv2 at 01"):
        assert flux.beside(replace(MEASURED, prompts=prompts)).departures == flux.unsaid
    assert flux.beside(MEASURED).recipe.startswith("paper-flux: FID to FLUX.1 dev at 50 steps")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": 100, "num_prompts": 100}, "100 pictures a row, not 3200"),
        ({"prompts": "mine.txt"}, "prompts mine.txt, not hpsv2"),
        ({"num_prompts": 800}, "800 prompts, some of them several times"),
        ({"detector": "pixels"}, "detector pixels, not inception-2015-12-05"),
        ({"reference": "photos"}, "reference photos, not the teacher at 50 steps"),
        (
            {"reference": "t euler 8 steps", "teacher_rows": ("t euler 8 steps",)},
            "reference t euler 8 steps, not the teacher at 50 steps",
        ),
    ],
)
def test_departures_are_named(change: dict[str, Any], words: str) -> None:
    flux = recipe_of("paper-flux")
    assert flux.beside(replace(MEASURED, **change)).departures == (words, *flux.unsaid)


def test_unknown_recipes_suggest_near_ones() -> None:
    with pytest.raises(PiflowError, match=r"unknown recipe 'paper-flx'\. Did you mean paper-flux"):
        recipe_of("paper-flx")


def test_published_rows_stand_below_the_table(tmp_path: Path) -> None:
    for style in ("anime", "concept-art", "paintings", "photo"):
        (tmp_path / f"{style}.json").write_text(json.dumps([f"a cat {style}", f"a dog {style}"]))
    options = ["--model", "emoji-1nfe", "--metric", "fid", "--samples", 8, "--teacher-steps", 1, "--intervals", 0]
    options += ["--prompts", f"hpsv2:{tmp_path}", "--detector", save_detector(tmp_path / "d.pt"), "--device", "cpu"]
    result = run("benchmark", "--recipe", "paper-flux", *options, "--json", "out.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "published: SenseFlow at 4 NFE, FID 23.3" in result.stdout
    assert "published: pi-FLUX at 4 NFE, FID 14.3" in result.stdout
    assert "not as published: 8 pictures a row, not 3200" in result.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["published"][1] == {"model": "pi-FLUX", "nfe": 4, "scores": {"fid": 14.3}}
    assert any("not the teacher at 50 steps" in text for text in written["departures"])
