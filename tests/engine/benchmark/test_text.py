"""Benchmarks of text-to-image students: prompts in turn, the teacher beside them as if it stood alone, diversity."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from text_students import LORA, text_student
from tiny_detector import save_detector
from tiny_models import DIGIT_NAMES, gmflow, save_teacher, student_of, tiny_flux, tiny_qwen
from torch import Tensor

from piflow_cli.core.sampling import sample_euler, sample_student
from piflow_cli.core.schedule import Shift
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.benchmark import yardsticks
from piflow_cli.engine.benchmark.benchmark import _usual_batch, benchmark
from piflow_cli.engine.benchmark.gauge import groups_seed
from piflow_cli.engine.benchmark.result import BenchmarkResult
from piflow_cli.engine.benchmark.samplers import Sampler
from piflow_cli.engine.benchmark.yardsticks import Yardstick
from piflow_cli.engine.students.load import LoadedStudent, assemble
from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import mean_and_cov
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.detectors.reference import load_reference
from piflow_cli.metrics.diversity import diversity
from piflow_cli.metrics.frechet.fid import fid
from piflow_cli.teachers.dit.family import DiT

TEXTS = ["a cat", "a red cat and a dog", "a dog"]
SAMPLES = 8
SETTINGS = SamplingSettings(nfe=1, shift=3.2, total_substeps=16)
TEACHERS = {"flux": tiny_flux, "qwen": tiny_qwen}


def loaded(family: str = "flux", *, name: str = "tiny", sampling: SamplingSettings = SETTINGS) -> LoadedStudent:
    """An adapted student of a small pipeline: its module holds the base, a LoRA and another head."""
    return assemble(text_student(TEACHERS[family](), gmflow(), adapter=LORA, sampling=sampling), name=name)


@pytest.fixture(scope="module", params=TEACHERS)
def either(request: pytest.FixtureRequest) -> LoadedStudent:
    return loaded(request.param)


@pytest.fixture(scope="module")
def student() -> LoadedStudent:
    return loaded()


@dataclass
class Measure:
    """Calls `benchmark` with usual arguments and changes to them."""

    usual: dict[str, Any]

    def __call__(self, students: LoadedStudent | list[LoadedStudent], **changes: Any) -> BenchmarkResult:
        models = students if isinstance(students, list) else [students]
        return benchmark(**{"models": models} | self.usual | changes)


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """A small benchmark with a detector of colours, a folder of noise for a reference, and three labelled prompts."""
    folder = tmp_path_factory.mktemp("benchmark")
    generator = torch.Generator().manual_seed(5)
    (folder / "real").mkdir()
    for i in range(9):
        pixels = torch.randint(0, 256, (16, 16, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / "real" / f"{i}.png")
    lines = [json.dumps({"prompt": text, "label": i}) for i, text in enumerate(TEXTS)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    return Measure(
        {
            "samples": SAMPLES,
            "prompts": str(folder / "prompts.jsonl"),
            "reference": str(folder / "real"),
            "detector": save_detector(folder / "colours.pt"),
            "device": "cpu",
            "batch_size": 3,
        }
    )


def noise_of(space: Any, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(space.latent_shape, generator=generator) for _ in range(count)])


def features_of(measure: Measure, space: Any, latents: Tensor) -> Tensor:
    """Features (N, 6) of latents, decoded and rounded as files are."""
    return load_detector(measure.usual["detector"])((space.decode(latents) * 255).round() / 255).features


def teacher_latents(student: LoadedStudent, noise: Tensor, texts: list[str], steps: int) -> Tensor:
    """The teacher alone: loaded anew, its own pipeline's embeddings, Euler."""
    teacher = student.card.teacher.load()
    condition = teacher.space.encode_prompts(texts)
    return sample_euler(
        lambda x, sigma: teacher.velocity(x, sigma, condition), noise, num_steps=steps, shift=Shift(SETTINGS.shift)
    )


def test_rows_are_what_student_and_teacher_draw_of_the_prompts_alone(either: LoadedStudent, measure: Measure) -> None:
    """Written out; the teacher's row knows nothing of the LoRA and the head that the student put into its base."""
    result = measure(either, metrics=["fid", "accuracy"], teacher_steps=[2])
    noise, texts = noise_of(either.space, SAMPLES, 0), [TEXTS[i % 3] for i in range(SAMPLES)]
    condition = either.space.encode_prompts(texts)
    latents = [
        sample_student(either.network, either.card.policy, noise, condition, settings=SETTINGS),
        teacher_latents(either, noise, texts, 2),
    ]
    reference = load_reference(measure.usual["reference"], detector=load_detector(measure.usual["detector"]))
    for row, x_0 in zip(result.rows, latents, strict=True):
        features = features_of(measure, either.space, x_0)
        assert row.scores["fid"] == pytest.approx(fid(features, reference.mean, reference.cov), rel=1e-2)
        seen = load_detector(measure.usual["detector"])((either.space.decode(x_0) * 255).round() / 255).logits
        labels = torch.arange(SAMPLES) % 3
        assert row.scores["accuracy"] == pytest.approx((seen.argmax(1) == labels).double().mean().item(), abs=0.13)
    teacher_mean, teacher_cov = mean_and_cov(features)
    own = features_of(measure, either.space, latents[0])
    assert result.rows[0].fid_to_teacher == pytest.approx(fid(own, teacher_mean, teacher_cov), rel=1e-2)
    assert [(row.kind, row.nfe) for row in result.rows] == [("student", 1), ("teacher", 2)]
    assert (result.prompts, result.num_prompts) == (measure.usual["prompts"], 3)


def test_guidance_by_two_passes_is_the_teachers_and_is_counted(measure: Measure) -> None:
    result = measure(loaded("qwen"), metrics=["fid"], teacher_steps=[2])
    assert [row.network_calls for row in result.rows] == [1, 4]


def test_diversity_is_that_of_eight_pictures_of_each_prompt_from_noise_of_its_own(
    student: LoadedStudent, measure: Measure
) -> None:
    result = measure(student, metrics=["diversity"], teacher_steps=[1, 2], seed=3)
    noise, texts = noise_of(student.space, 24, groups_seed(3)), [text for text in TEXTS for _ in range(8)]
    condition = student.space.encode_prompts(texts)
    groups = torch.arange(3).repeat_interleave(8)
    latents = [
        sample_student(student.network, student.card.policy, noise, condition, settings=SETTINGS),
        *(teacher_latents(student, noise, texts, steps) for steps in (1, 2)),
    ]
    expected = [diversity(features_of(measure, student.space, x_0), groups) for x_0 in latents]
    assert [row.scores["diversity"] for row in result.rows] == pytest.approx(expected, rel=1e-2)
    ratios = [row.diversity_ratio for row in result.rows]
    assert ratios == [
        pytest.approx(expected[0] / expected[2], rel=1e-2),
        pytest.approx(expected[1] / expected[2], rel=1e-2),
        None,
    ]
    assert result.better == {"diversity": "higher"}


def test_diversity_changes_no_other_number(student: LoadedStudent, measure: Measure) -> None:
    alone = measure(student, metrics=["fid"], teacher_steps=[2])
    both = measure(student, metrics=["diversity", "fid"], teacher_steps=[2])
    for one, other in zip(alone.rows, both.rows, strict=True):
        assert one.scores["fid"] == other.scores["fid"]
        assert one.network_calls == other.network_calls
        assert one.fid_ratio == other.fid_ratio
    assert [row.diversity_ratio for row in alone.rows] == [None, None]
    assert list(both.rows[0].scores) == ["diversity", "fid"]


def test_gap_closed_is_that_of_the_rows(student: LoadedStudent, measure: Measure) -> None:
    result = measure(student, nfe=[1, 2, 3], metrics=["fid"], teacher_steps=[1, 2, 4])
    scores = {(row.kind, row.nfe): row.scores["fid"] for row in result.rows}
    for row in result.rows[:2]:
        short, longest = scores["teacher", row.nfe], scores["teacher", 4]
        expected = (short - row.scores["fid"]) / (short - longest) if short > longest else None
        assert row.gap_closed == (pytest.approx(expected) if expected is not None else None)
    assert [row.gap_closed for row in result.rows[2:]] == [None] * 4
    assert json.loads(result.to_json())["rows"][0]["gap_closed"] == result.rows[0].gap_closed


def test_progress_counts_the_pictures_of_groups(student: LoadedStudent, measure: Measure) -> None:
    seen: list[tuple[int, int, str]] = []
    measure(student, nfe=[1, 2], metrics=["fid", "diversity"], on_progress=lambda *at: seen.append(at))
    done, totals, _ = zip(*seen, strict=True)
    assert set(totals) == {(SAMPLES + 24) * (1 + 2)}
    assert done[-1] == totals[-1]
    assert all(before < after for before, after in itertools.pairwise(done))


def test_prompts_are_encoded_once_for_all_rows(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    student, seen = loaded(), []
    encode = student.space.encode_prompts
    monkeypatch.setattr(student.space, "encode_prompts", lambda texts: seen.extend(texts) or encode(texts))
    measure([student, loaded(name="other")], nfe=[1, 2], metrics=["fid", "diversity"], teacher_steps=[1, 2])
    assert sorted(seen) == sorted(TEXTS)


def test_teacher_is_that_of_the_base_a_student_was_loaded_onto(measure: Measure) -> None:
    stored = text_student(tiny_flux(), gmflow(), sampling=SETTINGS)
    moved = stored.card.teacher.model_copy(update={"source": "some/base"})
    card = stored.card.model_copy(update={"teacher": moved})
    elsewhere = assemble(type(stored)(card=card, weights=stored.weights), name="moved", base=stored.card.teacher.source)
    result = measure(elsewhere, metrics=["fid"], teacher_steps=[1, 2])
    assert result.rows[1].model == stored.card.teacher.source
    assert result.rows[0].fid_ratio is not None


def test_batches_are_chosen_by_the_size_of_latents(student: LoadedStudent, measure: Measure) -> None:
    counts: list[tuple[int, int, str]] = []
    measure(student, metrics=["fid"], batch_size=None, on_progress=lambda *at: counts.append(at))
    assert [done for done, _, _ in counts] == [0, SAMPLES]
    large = assemble(text_student(tiny_flux(width=560, height=560), gmflow(), sampling=SETTINGS), name="large")
    assert _usual_batch(large.space) == 1
    assert _usual_batch(student.space) == 500


def test_embedded_teachers_bring_their_prompts(
    student: LoadedStudent, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = Yardstick(measure.usual["reference"], measure.usual["detector"], Path(measure.usual["prompts"]))
    monkeypatch.setitem(yardsticks.EMBEDDED_TEACHERS, student.card.teacher.source, shipped)
    result = measure(student, metrics=["fid"], prompts=None, reference=None, detector=None)
    assert (result.prompts, result.num_prompts) == (measure.usual["reference"], 3)
    assert result.rows[0].scores == measure(student, metrics=["fid"]).rows[0].scores
    known = yardsticks.EMBEDDED_TEACHERS["zoo:emoji"]
    assert (known.reference, known.detector, known.prompts.name) == ("emoji", "emoji-cnn", "prompts.jsonl")


@pytest.fixture
def unsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    def sampled(*_: object, **__: object) -> None:
        raise AssertionError("sampling began")

    monkeypatch.setattr(Sampler, "pictures", sampled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": None}, r"need prompts to be measured by: .* \(\.txt, \.jsonl, \.csv, \.parquet\)"),
        ({"prompts": "none.txt"}, r"prompts none\.txt does not exist"),
        ({"prompts": "none.csv"}, r"prompts none\.csv does not exist.*\.csv, \.parquet"),
        ({"reference": None}, "pass --reference"),
    ],
)
def test_what_is_missing_is_said_before_the_first_sample(
    student: LoadedStudent, measure: Measure, unsampled: None, change: dict, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        measure(student, **change)


@pytest.mark.parametrize("source", ["folder/", "owner/name"])
def test_prompts_are_read_before_students_are_loaded(tmp_path: Path, source: str) -> None:
    """Nor is the hub asked for one before."""
    (tmp_path / "folder").mkdir()
    model = source if source == "owner/name" else str(tmp_path / source)
    with pytest.raises(DataError, match=r"none\.txt does not exist"):
        benchmark(models=[model], prompts="none.txt")


@pytest.mark.parametrize(
    ("labels", "message"),
    [([None] * 9, "carry none.*whole number 'label'"), ([0] * 8 + [3], r"labels 0\.\.3; the detector knows 0\.\.2")],
)
def test_labels_that_cannot_serve_are_seen_before_the_first_sample(
    student: LoadedStudent, measure: Measure, unsampled: None, tmp_path: Path, labels: list, message: str
) -> None:
    lines = [{"prompt": f"a cat {i}"} | ({} if label is None else {"label": label}) for i, label in enumerate(labels)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=message):
        measure(student, metrics=["accuracy"], prompts=str(tmp_path / "list.jsonl"), samples=9)


def test_class_models_take_no_prompts(measure: Measure, unsampled: None, tmp_path: Path) -> None:
    teacher = DiT(source=str(save_teacher(tmp_path / "t", labels=DIGIT_NAMES, in_channels=1, out_channels=1)))
    with pytest.raises(DataError, match="tiny draws classes and takes no prompts"):
        measure(student_of(teacher), metrics=["fid"])


def test_students_that_cannot_share_noise_and_prompts_are_refused(
    student: LoadedStudent, measure: Measure, unsampled: None, tmp_path: Path
) -> None:
    teacher = DiT(source=str(save_teacher(tmp_path / "t", labels=DIGIT_NAMES, in_channels=1, out_channels=1)))
    wide = assemble(text_student(tiny_flux(width=64), gmflow(), sampling=SETTINGS), name="wide")
    for other in (loaded("qwen", name="qwen"), wide, student_of(teacher)):
        with pytest.raises(DataError, match="cannot share noise and labels"):
            measure([student, other])


def test_groups_have_noise_of_their_own() -> None:
    """Also on CPUs, whose generator takes 32 bits of a seed: no group repeats the row's noise, nor another seed's."""
    seeds = [groups_seed(seed) for seed in range(100)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**32 for seed in seeds)
    for seed in range(3):
        own = torch.randn(8, generator=torch.Generator().manual_seed(seed))
        assert not torch.equal(torch.randn(8, generator=torch.Generator().manual_seed(groups_seed(seed))), own)
