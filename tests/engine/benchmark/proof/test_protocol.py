"""The protocol's fingerprint: the same for what changes no number, another for all that does."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from hub_cache import COMMIT, cached_dataset
from PIL import Image
from text_students import text_student
from tiny_detector import save_detector
from tiny_models import gmflow, student_of, tiny_flux

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.benchmark.benchmark import benchmark
from piflow_cli.engine.benchmark.proof.compare import compare, read_table
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.students.load import LoadedStudent, load_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.teachers.dit.family import DiT


def measure(student: LoadedStudent, **changes: Any) -> BenchmarkResult:
    arguments: dict[str, Any] = {"models": [student], "samples": 20, "reference": "digits", "detector": "digits-cnn"}
    return benchmark(**arguments | {"device": "cpu", "intervals": 0} | changes)


def test_parts_are_named_and_the_hash_is_of_them(student: LoadedStudent) -> None:
    result = measure(student)
    found = json.loads(result.to_json())
    assert found["protocol"] == result.protocol
    assert len(found["fingerprint"]) == 12
    assert result.protocol["samples"] == 20
    assert result.protocol["asked for"] == "10 classes in turn"
    assert result.protocol["guidance"] == [{"guidance_scale": 1.0, "guidance_interval": [0.0, 1.0]}]
    assert result.protocol["dtype"] == ["float32"]
    assert set(result.protocol["versions"]) == {"piflow", "torch", "diffusers", "transformers", "torchmetrics"}
    assert "weights " in result.protocol["detectors"]["digits-cnn"]


def test_what_changes_no_number_changes_no_fingerprint(student: LoadedStudent, teacher: DiT, tmp_path: Path) -> None:
    shutil.copytree(teacher.source, tmp_path / "elsewhere")
    moved = student_of(teacher.model_copy(update={"source": str(tmp_path / "elsewhere")}))
    known, threads = measure(student).fingerprint, torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        others = [
            measure(student, batch_size=7, intervals=10),
            measure(moved, teacher_steps=[1]),
            measure(replace(student, name="another")),
        ]
    finally:
        torch.set_num_threads(threads)
    assert [other.fingerprint for other in others] == [known] * 3


CHANGES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "samples": lambda _: {"samples": 21},
    "seed": lambda _: {"seed": 1},
    "references": lambda _: {"reference": "teacher", "teacher_steps": [1]},
    "detectors": lambda folder: {"detector": save_detector(folder / "net.pt"), "reference": str(pictures(folder))},
    "groups": lambda _: {"metrics": ["fid", "diversity"]},
}


def pictures(folder: Path) -> Path:
    (folder / "real").mkdir()
    for level in (10, 90, 200):
        Image.new("L", (8, 8), level).save(folder / "real" / f"{level}.png")
    return folder / "real"


@pytest.mark.parametrize("part", CHANGES)
def test_what_changes_numbers_changes_its_part(student: LoadedStudent, tmp_path: Path, part: str) -> None:
    known, other = measure(student), measure(student, **CHANGES[part](tmp_path))
    assert known.fingerprint != other.fingerprint
    assert known.protocol[part] != other.protocol[part]


def test_guidance_is_a_part(student: LoadedStudent, teacher: DiT) -> None:
    guided = measure(student_of(teacher.model_copy(update={"guidance_scale": 2.0})))
    changed = {name for name, value in measure(student).protocol.items() if guided.protocol[name] != value}
    assert changed == {"guidance"}


def test_prompts_are_known_by_what_they_say(tmp_path: Path) -> None:
    stored = text_student(tiny_flux(), gmflow(), sampling=SamplingSettings(nfe=1, shift=3.2, total_substeps=16))
    save_student(stored, tmp_path / "student")
    student = load_student(str(tmp_path / "student"))
    lists = {"one": "a cat\na dog\n", "same": "a cat\na dog\n", "other": "a cat\na fox\n"}
    for name, said in lists.items():
        (tmp_path / f"{name}.txt").write_text(said)
    options = {"reference": str(pictures(tmp_path)), "detector": "pixels", "samples": 2, "metrics": ["vendi"]}
    one, same, other = (
        measure(student, prompts=str(tmp_path / f"{name}.txt"), **options).protocol["asked for"] for name in lists
    )
    assert one == same
    assert one != other
    assert one.startswith("2 prompts ")


def test_a_set_of_the_hub_is_said_with_its_commit_and_compares_with_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    copy = cached_dataset(tmp_path / "hub", "nateraw/parti-prompts") / "PartiPrompts.tsv"
    copy.write_text("Prompt\tCategory\na cat\tAnimals\na dog\tAnimals\n")
    stored = text_student(tiny_flux(), gmflow(), sampling=SamplingSettings(nfe=1, shift=3.2, total_substeps=16))
    save_student(stored, tmp_path / "student")
    student = load_student(str(tmp_path / "student"))
    options = {"detector": "pixels", "samples": 20, "metrics": ["vendi"], "intervals": 10}
    fetched, local = (measure(student, prompts=spec, **options) for spec in ("parti", f"parti:{copy}"))
    assert fetched.prompts == f"parti of nateraw/parti-prompts at {COMMIT[:12]}"
    assert fetched.protocol["prompts"] == f"PartiPrompts.tsv of nateraw/parti-prompts at {COMMIT}"
    assert "prompts" not in local.protocol
    assert fetched.fingerprint != local.fingerprint
    for name, result in (("a", fetched), ("b", local)):
        (tmp_path / f"{name}.json").write_text(result.to_json())
    found = compare(read_table(tmp_path / "a.json"), read_table(tmp_path / "b.json"))
    assert set(found.differing) == {"prompts"}
    assert [(d.name, d.paired, d.verdict) for d in found.differences] == [("vendi", True, "within noise")]
