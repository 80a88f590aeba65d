"""The embedded detector gives the shipped statistics, and one score for a tensor and its PNG."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from piflow_cli.errors import DataError, ModelError
from piflow_cli.metrics.accuracy import accuracy
from piflow_cli.metrics.detectors.load import DigitsDetector, load_detector
from piflow_cli.metrics.detectors.reference import load_reference, read_images
from piflow_cli.metrics.frechet.fid import fid
from piflow_cli.zoo.digits.build.data import load_digits_images


@pytest.fixture(scope="module")
def detector() -> DigitsDetector:
    return load_detector("digits-cnn")


def test_shipped_statistics_are_those_of_the_digits(detector: DigitsDetector) -> None:
    images, labels = load_digits_images()
    result = detector(images)
    reference = load_reference("digits", detector=detector)
    assert reference.num_samples == len(images) == 1797
    assert torch.allclose(result.features, reference.features, atol=1e-3)
    assert fid(result.features, reference.mean, reference.cov) < 1e-5
    assert reference.cov.trace().item() == pytest.approx(64, rel=1e-4)
    assert accuracy(result.logits, labels) > 0.98


def test_png_scores_as_its_tensor(detector: DigitsDetector, tmp_path: Path) -> None:
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    levels = images.clamp(0, 1).mul(255).round().to(torch.uint8)
    for index, picture in enumerate(levels):
        grey = Image.fromarray(picture[0].numpy())
        (grey if index % 2 else grey.convert("RGB")).save(tmp_path / f"{index:02d}.png")
    from_files = torch.cat([detector(batch).features for batch in read_images(sorted(tmp_path.iterdir()))])
    assert torch.allclose(from_files, detector(images).features, atol=1e-5)


def test_title_says_that_it_is_not_inception(detector: DigitsDetector) -> None:
    assert detector.title("FID") == "digits-FID (not Inception)"


def test_other_pictures_are_refused(detector: DigitsDetector) -> None:
    with pytest.raises(DataError, match="8x8"):
        detector(torch.zeros(2, 3, 32, 32))


def test_damaged_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"detector": "digits-cnn"}')
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"digits\.build\.features"):
        DigitsDetector.from_folder(tmp_path)
