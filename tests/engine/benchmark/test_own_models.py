"""Benchmarks by models that metrics bring: what they see is what is drawn, their prompts are those asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from text_students import LORA, text_student
from tiny_judges import save_clip
from tiny_models import gmflow, tiny_flux
from torch import Tensor

from piflow_cli.core.sampling import sample_student
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.benchmark.benchmark import benchmark
from piflow_cli.engine.benchmark.gauge import groups_seed
from piflow_cli.engine.benchmark.result import NONE, BenchmarkResult
from piflow_cli.engine.students.load import LoadedStudent, assemble
from piflow_cli.errors import DataError
from piflow_cli.metrics.cmmd import cmmd
from piflow_cli.metrics.metric import metric_of
from piflow_cli.metrics.panel import Panel
from piflow_cli.metrics.variety.dino_diversity import pair_distance
from piflow_cli.metrics.variety.vendi import vendi

TEXTS = ["a cat", "a red cat and a dog", "a dog"]
SETTINGS = SamplingSettings(nfe=1, shift=3.2, total_substeps=16)


@pytest.fixture(scope="module")
def student() -> LoadedStudent:
    return assemble(text_student(tiny_flux(), gmflow(), adapter=LORA, sampling=SETTINGS), name="tiny")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "prompts.txt").write_text("\n".join(TEXTS))
    return save_clip(folder / "clip")


def measure(student: LoadedStudent, clip: Path, metrics: Sequence[str], **changes: Any) -> BenchmarkResult:
    usual = {"samples": 7, "batch_size": 3, "device": "cpu", "prompts": str(clip.parent / "prompts.txt")}
    return benchmark(**{"models": [student], "metrics": metrics} | usual | changes)


def drawn(student: LoadedStudent, texts: list[str], seed: int) -> Tensor:
    """Pictures by the sampler alone."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.stack([torch.randn(student.space.latent_shape, generator=generator) for _ in texts])
    condition = student.space.encode_prompts(texts)
    latents = sample_student(student.network, student.card.policy, noise, condition, settings=SETTINGS)
    return (student.space.decode(latents) * 255).round() / 255


def test_scores_are_of_pictures_and_the_prompts_they_were_asked_by(student: LoadedStudent, clip: Path) -> None:
    specs = [f"clip-score={clip}", f"vendi={clip}", f"dino-diversity={clip}", f"cmmd={clip}"]
    result = measure(student, clip, specs, teacher_steps=[2])
    texts = [TEXTS[i % 3] for i in range(7)]
    metrics = [metric_of(spec) for spec in specs]
    panel = Panel.of(metrics, None, device=torch.device("cpu"))
    judge, detector = panel.judges[metrics[0].reads], panel.detectors[metrics[1].reads]
    pictures, row = drawn(student, texts, 0), result.rows[0]
    said = judge(pictures, texts).features
    assert row.scores["clip-score"] == pytest.approx(said.clamp(min=0).mean().item(), rel=2e-2)
    assert row.scores["vendi"] == pytest.approx(vendi(detector(pictures).features), rel=1e-3)
    groups = drawn(student, [text for text in TEXTS for _ in range(4)], groups_seed(0))
    spread = pair_distance(detector(groups).features, torch.arange(3).repeat_interleave(4))
    assert row.scores["dino-diversity"] == pytest.approx(spread, rel=5e-2)
    assert result.rows[1].scores["cmmd"] == pytest.approx(0, abs=1e-9)  # the teacher's longest row is the reference
    assert row.scores["cmmd"] > 0
    assert result.reference == result.teacher_rows[0]
    assert set(result.models) == {"clip-score", "vendi", "dino-diversity", "cmmd"}
    assert cmmd(detector(pictures).features, detector(pictures).features) == pytest.approx(0, abs=1e-9)


def test_order_of_batches_does_not_part_pictures_from_prompts(student: LoadedStudent, clip: Path) -> None:
    scores = [
        measure(student, clip, [f"clip-score={clip}"], batch_size=size).rows[0].scores["clip-score"]
        for size in (1, 3, 7)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=2e-2) == pytest.approx(scores[2], rel=2e-2)


def test_metrics_that_compare_to_nothing_need_no_reference(student: LoadedStudent, clip: Path) -> None:
    result = measure(student, clip, [f"clip-score={clip}"])
    assert (result.reference, result.reference_samples, result.doubts) == (NONE, 0, ())
    with pytest.raises(DataError, match="pass --reference"):
        measure(student, clip, [f"clip-score={clip}", "fid"])


def test_one_metric_by_several_models_is_refused(student: LoadedStudent, clip: Path) -> None:
    with pytest.raises(DataError, match="clip-score was asked for by several models"):
        measure(student, clip, [f"clip-score={clip}", "clip-score"])
