"""The embedded teacher is a plain diffusers pipeline, and the scripts that make it and its judge run."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler

from piflow_cli.errors import StorageError
from piflow_cli.metrics.detectors.load import DIGITS_NAME, DigitsDetector
from piflow_cli.metrics.detectors.reference import load_reference
from piflow_cli.zoo import training
from piflow_cli.zoo.digits.build import features as train_digits_features
from piflow_cli.zoo.digits.build import teacher as train_digits
from piflow_cli.zoo.digits.build.data import CLASS_NAMES, load_digits_images
from piflow_cli.zoo.digits.build.teacher import TEACHER_FOLDER


@pytest.fixture(scope="module")
def teacher() -> DiTTransformer2DModel:
    return DiTTransformer2DModel.from_pretrained(TEACHER_FOLDER / "transformer").eval()


def test_folder_is_a_small_plain_pipeline(teacher: DiTTransformer2DModel) -> None:
    index = json.loads((TEACHER_FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "DiTPipeline"
    assert index["transformer"] == ["diffusers", "DiTTransformer2DModel"]
    assert index["scheduler"] == ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    assert index["vae"] == [None, None]
    pipeline = DiTPipeline.from_pretrained(TEACHER_FOLDER, vae=None)
    assert pipeline.get_label_ids(["seven"]) == [7]
    assert tuple(index["id2label"].values()) == CLASS_NAMES
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(TEACHER_FOLDER / "scheduler")
    assert (scheduler.config.num_train_timesteps, scheduler.config.shift) == (1000, 1.0)
    assert sum(path.stat().st_size for path in TEACHER_FOLDER.rglob("*") if path.is_file()) < 5e6
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}
    embedders = [block.norm1.emb.state_dict() for block in teacher.transformer_blocks]
    assert all(torch.equal(other[key], embedders[0][key]) for other in embedders[1:] for key in embedders[0])


@torch.no_grad()
def test_teacher_predicts_the_velocity(teacher: DiTTransformer2DModel) -> None:
    images, labels = load_digits_images()
    x_0, labels = images[:256] * 2 - 1, labels[:256]
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    for sigma, bound in ((0.1, 0.65), (0.5, 0.35), (0.9, 0.35)):
        x_t = torch.lerp(x_0, noise, sigma)
        u = teacher(x_t, torch.full((256,), 1000 * sigma), labels).sample
        u_null = teacher(x_t, torch.full((256,), 1000 * sigma), torch.full_like(labels, 10)).sample
        error, error_null = ((prediction - (noise - x_0)).square().mean() for prediction in (u, u_null))
        assert error < bound, sigma
        assert error < error_null, "the class helps"


def test_pictures_show_their_class(teacher: DiTTransformer2DModel) -> None:
    labels = torch.arange(100) % 10
    x = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for step in range(8):
            x = x - teacher(x, torch.full((100,), 1000 * (1 - step / 8)), labels).sample / 8
        result = DigitsDetector.from_folder()((x / 2 + 0.5).clamp(0, 1))
    assert (result.logits.argmax(dim=1) == labels).float().mean() > 0.95


def test_training_script_writes_what_it_trained(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    arguments = ["--out", str(folder), "--steps", "3", "--batch-size", "8"]
    assert train_digits.main(arguments) == 0
    trained = train_digits.train_teacher(num_steps=3, batch_size=8, seed=0)
    loaded = DiTTransformer2DModel.from_pretrained(folder / "transformer").eval()
    x_t, timestep = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.full((4,), 512.5)
    labels = torch.tensor([0, 3, 9, 10])
    with torch.no_grad():
        expected, found = (net(x_t, timestep, labels).sample for net in (trained, loaded))
    assert torch.allclose(found, expected, atol=2e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["teacher"]
    assert train_digits.main(arguments) == 0, "a second run replaces the folder"


def test_interrupted_training_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_digits, "flow_matching_loss", interrupt)
    assert train_digits.main(["--out", str(tmp_path / "teacher"), "--steps", "3"]) == 130
    assert not list(tmp_path.iterdir())
    assert "not written" in capsys.readouterr().err


def test_feature_script_scales_and_describes_its_network(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    assert train_digits_features.main(["--out", str(folder), "--steps", "20", "--batch-size", "32"]) == 0
    detector = DigitsDetector.from_folder(folder)
    reference = load_reference(folder / "reference.safetensors", detector=detector)
    assert reference.detector == DIGITS_NAME
    assert reference.cov.trace().item() == pytest.approx(64, rel=1e-4)
    assert 0 < json.loads((folder / "config.json").read_text())["held_out_accuracy"] <= 1


def test_shipped_feature_network_is_good_and_small() -> None:
    folder = train_digits_features.DIGITS_FOLDER
    assert json.loads((folder / "config.json").read_text())["held_out_accuracy"] >= 0.98
    assert (folder / "reference.safetensors").stat().st_size < 600_000


def test_shift_moves_by_at_most_a_pixel() -> None:
    images = torch.zeros(200, 1, 8, 8)
    images[:, :, 4, 4] = 1
    where = train_digits_features.shift_by_a_pixel(images, torch.Generator().manual_seed(0)).nonzero()[:, 2:]
    assert where.unique(dim=0).tolist() == [[y, x] for y in (3, 4, 5) for x in (3, 4, 5)]


def test_learning_rate_rises_then_falls_to_zero() -> None:
    factors = [train_digits.learning_rate_factor(step, 1000) for step in range(1001)]
    peak = factors.index(max(factors))
    assert max(factors) == 1
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[-1] == pytest.approx(0)


def test_failed_write_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    training.replace_folder(target, lambda fresh: (fresh / "a").write_text("old"))

    def fail(fresh: Path) -> None:
        (fresh / "a").write_text("new")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        training.replace_folder(target, fail)
    assert (target / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(StorageError, match="--out"):
        training.replace_folder(target / "a" / "below", fail)
