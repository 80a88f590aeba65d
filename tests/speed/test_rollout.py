"""The rollout benchmark runs, agrees with itself and reports; its times are not tested here."""

import json

import pytest
import torch

from piflow_cli.speed import rollout as benchmark
from piflow_cli.speed.rollout import MIXTURES, TARGETS, Result, Target, Workload, extra_peak_bytes, met, run

TINY_MIXTURES = (
    Workload("more channels", batch=2, num_parts=3, channels=5, size=4, substeps=4, span=0.25),
    Workload("more components", batch=2, num_parts=5, channels=2, size=4, substeps=6),
)
TINY_GRIDS = (Workload("a grid", batch=2, num_parts=4, channels=2, size=4, substeps=8, span=0.5),)


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return run(TINY_MIXTURES, TINY_GRIDS, repeats=1, threads=1, compiled=False)


def test_all_variants_agree(results):
    assert [r.variant for r in results] == ["plain", "eager"] * 2 + ["stepped", "one combination"]
    assert all(r.largest_difference < 1e-4 for r in results)
    assert all(r.time_ms > 0 and r.extra_memory_mib > 0 for r in results)


def test_ratios_are_to_the_first_of_a_workload(results):
    for first, second in zip(results[::2], results[1::2], strict=True):
        assert (first.speedup, first.memory_ratio, first.largest_difference) == (1, 1, 0)
        assert second.speedup == pytest.approx(first.time_ms / second.time_ms)


def test_the_threads_are_put_back(results):
    before = torch.get_num_threads()
    run((), (), threads=before + 1)
    assert torch.get_num_threads() == before


def test_extra_memory_is_what_a_call_holds_at_once():
    x = torch.zeros(1 << 18)  # 1 MiB
    assert extra_peak_bytes(lambda: x + 1) == pytest.approx(1 << 20, rel=0.01)
    assert extra_peak_bytes(lambda: (x + 1) + (x + 2)) == pytest.approx(3 << 20, rel=0.01)
    assert extra_peak_bytes(lambda: ((x + 1) + 2) + 3) == pytest.approx(2 << 20, rel=0.01)


def test_targets_name_workloads_that_exist():
    names = {workload.name for workload in (*MIXTURES, *benchmark.GRIDS)}
    assert {target.workload for target in TARGETS} <= names


def result(variant: str, *, speedup: float, memory_ratio: float) -> Result:
    return Result("GMFlow", "w", variant, 1.0, speedup, 1.0, memory_ratio, 0.0)


@pytest.mark.parametrize(("speedup", "memory_ratio", "expected"), [(3, 0.5, True), (2.9, 0.1, False), (9, 0.6, False)])
def test_a_target_needs_speed_and_memory(speedup, memory_ratio, expected):
    target = Target("w", "eager", min_speedup=3, max_memory=0.5)
    assert met(target, [result("eager", speedup=speedup, memory_ratio=memory_ratio)]) is expected


@pytest.mark.parametrize("as_json", [True, False])
def test_the_program_prints_results_and_verdicts(as_json, monkeypatch, capsys):
    small = (Workload("w", batch=1, num_parts=2, channels=2, size=4, substeps=4),)
    monkeypatch.setattr(benchmark, "run", lambda **_: run(small, (), repeats=1, threads=1, compiled=False))
    monkeypatch.setattr(benchmark, "TARGETS", (Target("w", "eager", min_speedup=1e9),))
    assert benchmark.main(["--json"] if as_json else []) == 1
    printed = capsys.readouterr().out
    if as_json:
        report = json.loads(printed)
        assert [r["variant"] for r in report["results"]] == ["plain", "eager"]
        assert [t["met"] for t in report["targets"]] == [False]
    else:
        assert "Policy rollouts" in printed
        assert "eager" in printed
