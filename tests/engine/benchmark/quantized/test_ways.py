"""Quantised bases in a benchmark: a row each, compared with the whole one's from the same noise; refused early."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_on_cpu import QUANTIZATIONS, bitsandbytes_on_cpu  # noqa: F401
from text_students import LORA, text_student
from tiny_models import gmflow, tiny_flux, tiny_qwen

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.benchmark.benchmark import benchmark
from piflow_cli.engine.benchmark.proof.compare import Table, compare
from piflow_cli.engine.benchmark.quantized.ways import check_ways
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.benchmark.samplers import Sampler
from piflow_cli.engine.sample.open import open_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.engine.students.shared import Bases
from piflow_cli.engine.students.stored import stored_bytes
from piflow_cli.errors import DataError, DeviceError, MissingExtraError, ModelError
from piflow_cli.metrics.detectors.pixels import PixelDetector
from piflow_cli.metrics.intervals.jackknife import half_width
from piflow_cli.metrics.paired import paired_error
from piflow_cli.teachers.text.loading import encoders, parts, quantization

SAMPLES = 12
TEACHERS = {"flux": tiny_flux, "qwen": tiny_qwen}
CPU = torch.device("cpu")
SETTINGS = SamplingSettings(nfe=1, shift=3.2, total_substeps=16)
ONE_WAY = pytest.mark.parametrize("way", [QUANTIZATIONS[2]])
"""torchao-int8, with the reason where it is not installed."""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved student with an adapter, of pictures with 4 patches a side, and prompts beside it."""
    folder = tmp_path_factory.mktemp("quantised")
    settings = tiny_flux(width=64, height=64)
    save_student(text_student(settings, gmflow(), adapter=LORA, sampling=SETTINGS), folder / "student")
    (folder / "prompts.txt").write_text("a cat\na red dog\n")
    return str(folder / "student")


def measure(student: str, **changes: Any) -> BenchmarkResult:
    options = {"metrics": ["fid"], "samples": SAMPLES, "prompts": str(Path(student).parent / "prompts.txt")}
    options |= {"device": "cpu", "dtype": "float32", "detector": "pixels", "teacher_steps": [1, 2], "batch_size": 5}
    return benchmark(models=[student], **(options | changes))


@ONE_WAY
def test_a_quantised_base_is_compared_with_the_whole_one_from_the_same_noise(student: str, way: str) -> None:
    result = measure(student, quantize=[way, "none", way], album=(kept := _Features()))
    whole, quantised, *teacher = result.rows
    assert [row.quantization for row in result.rows] == ["none", way, "none", "none"]
    assert [row.kind for row in teacher] == ["teacher"] * 2
    own, other = kept.features(way), kept.features("none")
    assert quantised.whole_error == pytest.approx(paired_error(own, other), rel=1e-6)
    assert 0 < quantised.whole_error < 0.1
    assert (whole.whole_error, whole.changes) == (None, {})
    for name in ("fid", "grid-energy"):
        assert quantised.changes[name] == quantised.scores[name] - whole.scores[name]
        change, low_high = f"{name}_change", quantised.intervals[f"{name}_change"]
        assert (low_high[0] + low_high[1]) / 2 == pytest.approx(quantised.changes[name], abs=1e-9)
        spread = [b - a for a, b in zip(whole.without[name], quantised.without[name], strict=True)]
        assert quantised.without[change] == pytest.approx(spread)
        assert (low_high[1] - low_high[0]) / 2 == pytest.approx(half_width(spread))
    assert "whole_error" in quantised.intervals
    assert quantised.weights_bytes < whole.weights_bytes
    assert quantised.paired_error is not None, "the teacher is the whole one, whatever the student stands on"
    assert result.teacher_rows == (f"{teacher[0].model} euler 2 steps",)
    assert "torchao" in result.protocol["versions"]
    assert json.loads(result.to_json())["rows"][1]["changes"] == quantised.changes


@ONE_WAY
def test_other_numbers_are_those_without_quantisation(student: str, way: str) -> None:
    alone, both = measure(student, metrics=["fid", "grid-energy"]), measure(student, quantize=["none", way])
    assert [row.scores for row in alone.rows] == [row.scores for row in both.rows if row.quantization == "none"]
    assert alone.rows[0].weights_bytes == both.rows[0].weights_bytes
    only = measure(student, quantize=[way])
    assert only.rows[0].scores == both.rows[1].scores
    assert (only.rows[0].changes, only.rows[0].whole_error) == ({}, None)
    assert "torchao" not in alone.protocol["versions"]


@ONE_WAY
def test_results_of_other_ways_are_told_apart(student: str, way: str) -> None:
    both = measure(student, quantize=["none", way])
    table = Table.model_validate_json(both.to_json())
    found = compare(table, table)
    assert {d.name for d in found.differences if d.row.endswith(way)} >= {"fid", "grid-energy", "whole_error"}
    one, other = (replace(both, rows=(row,)) for row in both.rows[:2])
    across = compare(*(Table.model_validate_json(some.to_json()) for some in (one, other)))
    assert {difference.row for difference in across.differences} == {
        f"{both.rows[0].model} gmflow 1 NFE / {both.rows[1].model} gmflow 1 NFE {way}"
    }
    first = next(difference for difference in across.differences if difference.name == "fid")
    assert (first.paired, first.second - first.first) == (True, both.rows[1].changes["fid"])


@pytest.mark.usefixtures("bitsandbytes_on_cpu")
@pytest.mark.parametrize("family", TEACHERS)
@pytest.mark.parametrize("way", QUANTIZATIONS)
def test_bytes_are_those_that_lie_in_memory(family: str, way: str) -> None:
    whole, settings = TEACHERS[family]().load().module, TEACHERS[family](quantization=way)
    assert stored_bytes(whole) == sum(parameter.numel() * 4 for parameter in whole.parameters())
    module = settings.load().module
    planned = settings.frozen_bytes(settings.describe()[0], 4)
    rows = sum(p.shape[0] for p in module.parameters() if hasattr(p, "zero_point"))
    assert planned <= stored_bytes(module) <= planned + 4 * rows, "torchao keeps a zero point a row besides the scale"


def test_a_parameter_that_two_layers_share_is_counted_once() -> None:
    first, second = torch.nn.Linear(3, 5), torch.nn.Linear(3, 5)
    second.weight = first.weight
    assert stored_bytes(torch.nn.Sequential(first, second)) == 4 * (15 + 5 + 5)


@ONE_WAY
def test_encoders_are_there_once(student: str, way: str) -> None:
    bases = Bases()
    opened = [
        open_student(student, quantization=kind, device="cpu", dtype="float32", bases=bases) for kind in ("none", way)
    ]
    assert opened[0].space is opened[1].space
    assert [each.quantization for each in opened] == ["none", way]
    alone = open_student(student, quantization=way, device="cpu", dtype="float32", bases=Bases())
    assert alone.space.encodes


@pytest.mark.parametrize("ways", [["none", "torchao-int8"], ["torchao-int8", "torchao-fp8"]])
def test_encoders_are_read_once_for_all_ways_and_the_teacher(
    student: str, ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchao")
    read: list[str] = []

    def load_whole(part_class: type, *, folder: Path, **options: Any) -> torch.nn.Module:
        read.append(folder.name)
        return encoders.load_whole(part_class, folder=folder, **options)

    monkeypatch.setattr(parts, "load_whole", load_whole)
    result = measure(student, quantize=ways)
    assert [row.quantization for row in result.rows] == [*ways, "none", "none"]
    assert sorted(name for name in read if name != "vae") == ["text_encoder", "text_encoder_2"]
    alone = measure(student, quantize=ways[1:])
    assert alone.rows[0].scores == result.rows[1].scores


@ONE_WAY
def test_a_quantised_base_is_freed_with_the_last_student_on_it(student: str, way: str) -> None:
    bases = Bases()
    opened = open_student(student, quantization=way, device="cpu", dtype="float32", bases=bases)
    space = weakref.ref(opened.space)
    assert open_student(student, quantization=way, device="cpu", dtype="float32", bases=bases).space is space()
    del opened
    gc.collect()
    assert space() is None


def test_ways_that_cannot_be_are_refused_before_anything_is_loaded(
    student: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("piflow_cli.engine.sample.open.assemble", read)
    with pytest.raises(ModelError, match="no base is held as 'int3'; known are none, bnb-8bit, bnb-4bit, torchao-int8"):
        measure(student, quantize=["none", "int3"])
    monkeypatch.setattr(quantization, "find_spec", lambda name: None if name == "torchao" else name)
    with pytest.raises(MissingExtraError, match=r"pip install 'piflow\[torchao\]'"):
        measure(student, quantize=["none", "torchao-int8"])
    with pytest.raises(DeviceError, match="bnb-4bit needs a GPU"):
        measure(student, quantize=["none", "bnb-4bit"])


@ONE_WAY
def test_students_without_a_base_of_their_own_to_quantise_are_refused(tmp_path: Path, way: str) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    save_student(text_student(tiny_flux(), gmflow(), adapter=None, sampling=SETTINGS), tmp_path / "student")
    with pytest.raises(ModelError, match="has all weights itself and no base to be quantised"):
        measure(str(tmp_path / "student"), quantize=[way])
    assert open_student(str(tmp_path / "student"), quantization="none", device="cpu").quantization == "none"
    with pytest.raises(ModelError, match="digits-1nfe is no text-to-image student"):
        benchmark(models=["digits-1nfe"], metrics=["fid"], quantize=[way], device="cpu")
    loaded = open_student(str(tmp_path / "student"), device="cpu")
    with pytest.raises(DataError, match="is loaded already"):
        check_ways([way], [loaded], device=CPU)


@ONE_WAY
def test_pictures_of_too_few_patches_are_measured_without_a_grid(tmp_path: Path, way: str) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    save_student(text_student(tiny_flux(), gmflow(), sampling=SETTINGS), tmp_path / "student")
    result = measure(str(tmp_path / "student"), quantize=["none", way], teacher_steps=[1])
    assert list(result.rows[0].scores) == ["fid"]
    assert any(warning.startswith("quantised bases are not looked at for grids: ") for warning in result.warnings)


class _Features:
    """An album that keeps every row's pictures as pixels."""

    count = SAMPLES

    def __init__(self) -> None:
        self._kept: dict[str, list[torch.Tensor]] = {}

    def take(self, sampler: Sampler, pictures: torch.Tensor, **_: object) -> None:
        if sampler.kind == "student":
            self._kept.setdefault(sampler.quantization, []).append(PixelDetector()(pictures).features)

    def features(self, way: str) -> torch.Tensor:
        return torch.cat(self._kept[way])
