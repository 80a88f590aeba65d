"""Reference statistics from files and folders: what goes in comes out, and bad files are named."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors import reference as reference_module
from piflow_cli.metrics.detectors.features import FeatureSet, Reference, extract_features, mean_and_cov
from piflow_cli.metrics.detectors.reference import (
    load_reference,
    read_image,
    read_images,
    save_compact_reference,
    save_reference,
)


class PixelDetector:
    """Features are the mean of each of three channels and the height."""

    name = "pixels"
    feature_dim = 4

    def __call__(self, images: torch.Tensor) -> FeatureSet:
        means = images.mean(dim=(2, 3)).expand(-1, 3)
        return FeatureSet(torch.cat([means, torch.full((len(images), 1), float(images.shape[2]))], dim=1))

    def title(self, metric: str) -> str:
        return metric


@pytest.fixture
def reference() -> Reference:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    return Reference("set", "pixels", *mean_and_cov(features), features, 30)


def write_pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    (folder / "more").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    Image.fromarray(generator.integers(0, 256, (4, 4), dtype=np.uint8)).save(folder / "more" / "grey.PNG")
    Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / "more" / "photo.jpg")
    (folder / "notes.txt").write_text("no picture")


def test_safetensors_round_trip(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "new" / "reference.safetensors"
    save_reference(reference, path)
    loaded = load_reference(path, detector=PixelDetector())
    assert (loaded.detector, loaded.num_samples) == ("pixels", 30)
    for field in ("mean", "cov", "features"):
        assert torch.equal(getattr(loaded, field), getattr(reference, field))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_compact_features_are_near_and_their_statistics_are_their_own(reference: Reference, tmp_path: Path) -> None:
    whole, compact = tmp_path / "whole.safetensors", tmp_path / "compact.safetensors"
    features = reference.features.repeat(20, 1) * torch.tensor([1e-3, 1, 0, 50])
    wide = Reference.of(FeatureSet(features), name="set", detector="pixels")
    save_reference(wide, whole)
    save_compact_reference(wide, compact)
    loaded = load_reference(compact, detector=PixelDetector())
    assert (loaded.detector, loaded.num_samples) == ("pixels", 600)
    level = wide.features.abs().amax(dim=0) / 127
    assert ((loaded.features - wide.features).abs() <= level * 0.501).all()
    mean, cov = mean_and_cov(loaded.features)
    assert torch.allclose(loaded.mean, mean, rtol=1e-12)
    assert torch.allclose(loaded.cov, cov, rtol=1e-12)
    assert compact.stat().st_size < whole.stat().st_size / 3


def test_what_cannot_be_kept_or_read_compactly(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    with pytest.raises(DataError, match="'set' has mean and covariance alone"):
        save_compact_reference(dataclasses.replace(reference, features=None), path)
    about = {"detector": "pixels", "num_samples": "30"}
    levels = torch.zeros(30, 4, dtype=torch.int8)
    for features, scale, message in [
        (levels, torch.ones(3), r"features of shape \(30, 4\) and a scale of shape \(3,\)"),
        (levels[0], torch.ones(4), r"features of shape \(4,\)"),
        (levels, torch.full((4,), torch.nan), "features that are not finite"),
    ]:
        known = {"mean": torch.zeros(4), "cov": torch.eye(4)}
        save_file({**known, "features": features, "scale": scale}, path, metadata=about)
        with pytest.raises(DataError, match=message):
            load_reference(path, detector=PixelDetector())


def test_adm_npz(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "adm.npz"
    np.savez(path, mu=reference.mean.numpy(), sigma=reference.cov.numpy(), mu_s=np.zeros(3))
    loaded = load_reference(str(path), detector=PixelDetector())
    assert torch.equal(loaded.mean, reference.mean)
    assert torch.equal(loaded.cov, reference.cov)
    assert loaded.features is None


def test_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    loaded = load_reference(tmp_path, detector=PixelDetector(), batch_size=2)
    assert loaded.num_samples == 5
    assert loaded.features[:, 3].tolist() == [6, 6, 6, 4, 8]
    first = torch.from_numpy(np.array(Image.open(tmp_path / "0.png"))).float().mean(dim=(0, 1)) / 255
    assert torch.allclose(loaded.features[0, :3], first)


def test_of_large_pictures_fewer_make_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.new("L", (10, 6)).save(path)
    monkeypatch.setattr(reference_module, "BATCH_PIXELS", 150)
    assert [len(batch) for batch in read_images(paths)] == [2, 2, 1]
    monkeypatch.setattr(reference_module, "BATCH_PIXELS", 50)
    assert [len(batch) for batch in read_images(paths)] == [1] * 5


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    data = (tmp_path / "0.png").read_bytes()
    (tmp_path / "damaged.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"damaged\.png"):
        load_reference(tmp_path, detector=PixelDetector())
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"damaged\.png"):
        load_reference(tmp_path, detector=PixelDetector())


def test_sixteen_bits_are_scaled_and_floats_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0, 0].tolist() == pytest.approx([0, 128 / 255, 1])
    Image.new("F", (2, 2)).save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match=r"float\.tiff .*floating-point.*Repair or remove it"):
        read_image(tmp_path / "float.tiff")


def test_what_is_transparent_is_white_and_palettes_are_colours(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 2), (255, 0, 51, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (3, 2), (255, 0, 51)).quantize(4).save(tmp_path / "b.png")
    assert (read_image(tmp_path / "a.png") == 1).all()
    assert read_image(tmp_path / "b.png").shape == (3, 2, 3)
    assert read_image(tmp_path / "b.png")[:, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


@pytest.mark.parametrize("name", ["photo.heic", "no_suffix", ".hidden.png"])
def test_a_folder_with_something_else_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    write_pictures(tmp_path)
    for system in ("._0.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / system).write_bytes(b"x")
    assert load_reference(tmp_path, detector=PixelDetector()).num_samples == 5
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=rf"holds 1 file.*{name} \(.*convert or remove"):
        load_reference(tmp_path, detector=PixelDetector())


def test_other_detectors_statistics_are_refused(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    save_reference(reference, path)
    detector = PixelDetector()
    detector.name = "others"
    with pytest.raises(DataError, match=r"'pixels'.*'others'"):
        load_reference(path, detector=detector)
    detector.feature_dim = 7
    with pytest.raises(DataError, match=r"\(4,\).* 7 features"):
        load_reference(path, detector=detector)


def test_unusable_files(tmp_path: Path) -> None:
    detector = PixelDetector()
    np.savez(tmp_path / "keys.npz", mean=np.zeros(4))
    np.savez(tmp_path / "objects.npz", mu=np.array([{}], dtype=object), sigma=np.eye(4))
    np.savez(tmp_path / "nan.npz", mu=np.full(4, np.nan), sigma=np.eye(4))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "keys.npz").read_bytes()[:40])
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 4)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("")
    for name, message in {
        "keys.npz": "mu or sigma",
        "objects.npz": "cannot read",
        "nan.npz": "not finite",
        "cut.npz": "cannot read",
        "cut.safetensors": "cannot be read as a reference",
        "empty": "at least 2",
        "list.txt": "suffix '.txt'",
        "missing": "does not exist",
    }.items():
        with pytest.raises(DataError, match=message):
            load_reference(tmp_path / name, detector=detector)


def test_extracting_from_nothing() -> None:
    with pytest.raises(DataError, match="no pictures"):
        extract_features(PixelDetector(), [])
