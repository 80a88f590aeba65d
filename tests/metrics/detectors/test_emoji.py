"""The embedded emoji detector loads, refuses what it cannot measure, and its shipped reference is a yardstick."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from piflow_cli.errors import DataError, ModelError
from piflow_cli.metrics.detectors.features import Reference, mean_and_cov
from piflow_cli.metrics.detectors.load import EMOJI_FOLDER, EmojiDetector, load_detector
from piflow_cli.metrics.detectors.reference import load_reference, read_images
from piflow_cli.metrics.frechet.fid import fid
from piflow_cli.metrics.kid import kid


@pytest.fixture(scope="module")
def detector() -> EmojiDetector:
    return load_detector("emoji-cnn")


@pytest.fixture(scope="module")
def reference(detector: EmojiDetector) -> Reference:
    return load_reference("emoji", detector=detector)


def flat_drawings(num: int) -> Tensor:
    """Coloured rectangles on white, (N, 3, 64, 64) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    images = torch.ones(num, 3, 64, 64)
    for image in images:
        top, left = torch.randint(4, 24, (2,), generator=generator).tolist()
        image[:, top : top + 30, left : left + 34] = torch.rand((3, 1, 1), generator=generator)
    return images


def test_shipped_reference_is_consistent(reference: Reference) -> None:
    assert reference.features.dtype == torch.float32
    assert reference.features.shape == (reference.num_samples, 256)
    assert fid(reference.features, reference.mean, reference.cov) < 1e-6
    assert abs(kid(reference.features, reference.features, seed=0, num_subsets=5)) < 0.01
    assert torch.allclose(reference.mean, torch.zeros(256).double(), atol=0.01)
    assert torch.allclose(reference.cov, torch.eye(256).double(), atol=0.01)


def test_halves_are_near_and_rubbish_is_far(detector: EmojiDetector, reference: Reference) -> None:
    order = torch.randperm(len(reference.features), generator=torch.Generator().manual_seed(0))
    first, second = reference.features[order].chunk(2)
    near = fid(first, *mean_and_cov(second))
    noise = torch.rand(300, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    blurred = nn.functional.avg_pool2d(noise, 5, stride=1, padding=2, count_include_pad=False)
    assert near < 15, "of 256; two halves of one normal distribution have 256^2 / 2837 / 2 = 11.6, as they are few"
    assert fid(detector(blurred).features, reference.mean, reference.cov) > 20 * near
    assert fid(detector(torch.ones(4, 3, 64, 64)).features, reference.mean, reference.cov) > 100, "empty pictures"


def test_classes_are_named(detector: EmojiDetector) -> None:
    config = json.loads((EMOJI_FOLDER / "config.json").read_text(encoding="utf-8"))
    classes = config["classes"]
    assert len(set(classes)) == len(classes) == detector(torch.zeros(1, 3, 64, 64)).logits.shape[1]
    assert {"cat face", "red heart", "pizza"} <= set(classes)
    assert not any(":" in name and "skin tone" in name for name in classes)
    assert config["held_out_accuracy"] > 0.5


def test_shipped_files_are_small() -> None:
    assert sum(path.stat().st_size for path in EMOJI_FOLDER.iterdir()) < 4_000_000


def test_png_scores_as_its_tensor(detector: EmojiDetector, tmp_path: Path) -> None:
    images = flat_drawings(6) * 1.2 - 0.1
    for index, levels in enumerate(images.clamp(0, 1).mul(255).round().to(torch.uint8)):
        Image.fromarray(levels.permute(1, 2, 0).numpy()).save(tmp_path / f"{index}.png")
    from_files = torch.cat([detector(batch).features for batch in read_images(sorted(tmp_path.iterdir()))])
    assert torch.allclose(from_files, detector(images).features, atol=1e-4)


def test_grey_is_three_equal_channels(detector: EmojiDetector) -> None:
    grey = flat_drawings(3).mean(dim=1, keepdim=True)
    assert torch.equal(detector(grey).features, detector(grey.expand(-1, 3, -1, -1)).features)


def test_title_says_that_it_is_not_inception(detector: EmojiDetector) -> None:
    assert detector.title("FID") == "emoji-FID (not Inception)"


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 4, 64, 64), (3, 64, 64)])
def test_other_pictures_are_refused(detector: EmojiDetector, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"64x64.*Inception file"):
        detector(torch.zeros(shape))


@pytest.mark.parametrize(
    "config", ['{"detector": "emoji-cnn"}', '{"detector": "emoji-cnn", "classes": ["a"]}', "{", "[]"]
)
def test_damaged_folder(tmp_path: Path, config: str) -> None:
    shutil.copy(EMOJI_FOLDER / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"emoji\.build features"):
        EmojiDetector.from_folder(tmp_path)


def test_cut_weights_and_another_network(tmp_path: Path) -> None:
    shutil.copytree(EMOJI_FOLDER, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"detector": "other"}))
    with pytest.raises(ModelError, match="'other', not 'emoji-cnn'"):
        EmojiDetector.from_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"emoji\.build features"):
        EmojiDetector.from_folder(tmp_path)


def test_digits_reference_is_refused(detector: EmojiDetector) -> None:
    with pytest.raises(DataError, match="256 features"):
        load_reference("digits", detector=detector)
