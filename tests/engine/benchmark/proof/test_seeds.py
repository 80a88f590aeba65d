"""Several seeds: means of what each seed gives alone, intervals that hold the mean, and pairs by seed."""

from pathlib import Path
from statistics import fmean

import pytest
import torch

from piflow_cli.engine.benchmark.benchmark import benchmark
from piflow_cli.engine.benchmark.proof.compare import Table, compare
from piflow_cli.engine.benchmark.proof.seeds import MAX_SEEDS, half_of_mean
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.errors import DataError
from piflow_cli.metrics.intervals.jackknife import combine

SEEDS = [3, 7, 4]


def measure(student: LoadedStudent, **changes: object) -> BenchmarkResult:
    options = {"metrics": ["fid", "diversity"], "samples": 30, "reference": "digits", "detector": "digits-cnn"}
    options |= {"device": "cpu", "teacher_steps": [1, 2], "nfe": [2], "h": [0.5]}
    return benchmark(models=[student], **(options | changes))


def test_numbers_are_means_of_what_each_seed_gives_alone(student: LoadedStudent) -> None:
    """With noise between evaluations too, which is the sampler's own."""
    alone = [measure(student, seed=seed) for seed in SEEDS]
    together = measure(student, seeds=[*SEEDS, SEEDS[0]])
    for number, row in enumerate(together.rows):
        rows = [result.rows[number] for result in alone]
        for name in ("fid", "diversity"):
            values = tuple(each.scores[name] for each in rows)
            assert row.by_seed[name] == values
            assert row.scores[name] == pytest.approx(fmean(values))
            low, high = row.intervals[name]
            assert (low + high) / 2 == pytest.approx(fmean(values))
            assert (high - low) / 2 == pytest.approx(half_of_mean(values))
        assert row.without == {}
    first, anchor = together.rows[0], together.rows[2]
    assert first.paired_error == pytest.approx(fmean(result.rows[0].paired_error for result in alone))
    assert "fid_ratio" in first.intervals
    assert (anchor.paired_error, anchor.fid_ratio) == (None, None)
    assert (together.seeds, together.protocol["seed"], together.seed) == (tuple(SEEDS), SEEDS, 3)
    assert together.intervals == "95%, of the mean of 3 seeds"


def test_one_seed_is_that_seed(student: LoadedStudent) -> None:
    one, plain = measure(student, seeds=[7]), measure(student, seed=7)
    assert one.fingerprint == plain.fingerprint
    assert [row.scores for row in one.rows] == [row.scores for row in plain.rows]
    assert [row.without for row in one.rows] == [row.without for row in plain.rows]
    assert (one.seeds, one.rows[0].by_seed) == ((), {})


def test_differences_are_taken_seed_by_seed(student: LoadedStudent) -> None:
    one, two = measure(student, seeds=SEEDS), measure(student, seeds=SEEDS, nfe=[2], h=[0.4])
    tables = [Table.model_validate_json(result.to_json()) for result in (one, two)]
    tables[1] = tables[1].model_copy(update={"rows": (tables[1].rows[0].model_copy(update={"h": 0.5}),)})
    found = {difference.name: difference for difference in compare(*tables).differences}
    spread = combine(lambda a, b: b - a, one.rows[0].by_seed["fid"], two.rows[0].by_seed["fid"])
    assert found["fid"].paired
    assert found["fid"].half == pytest.approx(half_of_mean(spread))
    assert compare(tables[0], tables[0]).same_protocol
    mixed = compare(tables[0], Table.model_validate_json(measure(student, seed=3).to_json()))
    assert mixed.differing["seed"] == (SEEDS, 3)
    assert not any(difference.paired for difference in mixed.differences)


def test_a_teachers_row_is_the_same_reference_whatever_the_seed(student: LoadedStudent) -> None:
    results = [measure(student, seed=seed, reference="teacher", metrics=["fid"]) for seed in (0, 1)]
    assert [result.protocol["references"] for result in results] == [{"fid": "the teacher's row of most steps"}] * 2
    found = compare(*(Table.model_validate_json(result.to_json()) for result in results))
    assert list(found.differing) == ["seed"]
    assert not any(difference.verdict == "does not compare" for difference in found.differences)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9])
def test_an_interval_holds_the_mean_95_times_in_100(count: int) -> None:
    draws = torch.randn(4000, count, generator=torch.Generator().manual_seed(count), dtype=torch.float64) * 3 + 5
    halves = torch.tensor([half_of_mean(values) for values in draws.tolist()])
    held = ((draws.mean(dim=1) - 5).abs() <= halves).double().mean().item()
    assert held == pytest.approx(0.95, abs=0.012)
    assert half_of_mean([1.0]) is None
    assert half_of_mean([1.0, float("nan")]) is None


@pytest.mark.parametrize(
    ("seeds", "message"),
    [([], "0 seeds were given"), (list(range(MAX_SEEDS + 1)), "101 seeds were given"), ([1, -1], "seeds has -1")],
)
def test_seeds_out_of_range_are_refused_before_loading(seeds: list[int], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        benchmark(models=[str(tmp_path / "none")], seeds=seeds, device="cpu")
