"""The Inception file is loaded hash first, as TorchScript only. A tiny scripted module stands in for it."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from piflow_cli.errors import ModelError
from piflow_cli.metrics.detectors import torchscript
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.detectors.torchscript import INCEPTION_NAME, INCEPTION_SHA256


class TinyInception(nn.Module):
    """The signature of StyleGAN's file: uint8 pictures, features or class posteriors."""

    def forward(self, images: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        assert images.dtype == torch.uint8
        features = images.float().mean(dim=(2, 3))  # (B, 3)
        if return_features:
            return features
        return (features + (0.0 if no_output_bias else 1.0)).softmax(dim=1)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pt"
    torch.jit.script(TinyInception()).save(str(path))
    return path


def test_features_and_logits(tiny: Path) -> None:
    detector = load_detector(f"{tiny}#sha256={digest(tiny)}")
    assert detector.feature_dim == 3
    assert detector.name.startswith("torchscript-")
    assert detector.title("FID") != "FID"
    images = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    result = detector(images)
    assert torch.equal(result.features, torch.tensor([0.0, 128.0, 255.0])[:, None].expand(3, 3))
    assert torch.allclose(result.logits.softmax(dim=1), torch.full((3, 3), 1 / 3))
    assert load_detector(f"{tiny}#sha256={digest(tiny)}", with_logits=False)(images).logits is None


def test_known_file_keeps_its_plain_title(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchscript, "INCEPTION_SHA256", digest(tiny))
    detector = load_detector(str(tiny))
    assert detector.name == INCEPTION_NAME
    assert detector.title("FID") == "FID"


def test_unknown_file_is_refused_before_it_is_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("loaded before the hash was checked"))
    for spec in (str(tiny), f"{tiny}#sha256={'0' * 64}"):
        with pytest.raises(ModelError, match=digest(tiny)):
            load_detector(spec)
    assert len(INCEPTION_SHA256) == 64


def test_truncated_file(tiny: Path) -> None:
    expected = digest(tiny)
    tiny.write_bytes(tiny.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        load_detector(f"{tiny}#sha256={expected}")
    with pytest.raises(ModelError, match="cannot be read as TorchScript"):
        load_detector(f"{tiny}#sha256={digest(tiny)}")


class Bomb:
    """Touches a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.mark,))


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    bare, zipped, legacy = tmp_path / "bare.pt", tmp_path / "zipped.pt", tmp_path / "legacy.pt"
    bare.write_bytes(pickle.dumps(Bomb(mark)))
    torch.save(Bomb(mark), zipped)
    torch.save(Bomb(mark), legacy, _use_new_zipfile_serialization=False)
    for path in (bare, zipped, legacy):
        with pytest.raises(ModelError, match="cannot be read as TorchScript"):
            load_detector(f"{path}#sha256={digest(path)}")
    assert not mark.exists()
    pickle.loads(bare.read_bytes())  # it would have
    assert mark.exists()


def test_module_of_another_signature(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)).save(str(path))
    with pytest.raises(ModelError, match="return_features"):
        load_detector(f"{path}#sha256={digest(path)}")


@pytest.mark.parametrize(
    ("spec", "message"), [("none.pt", "cannot read"), ("x.pt#md5=0", "64 hex"), (".", r"has no config\.json")]
)
def test_unusable_specifications(spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_detector(spec)


def test_download_is_checked_and_cached(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    opened = []

    def open_tiny(url: str, timeout: float):
        opened.append(url)
        return tiny.open("rb")

    monkeypatch.setattr(torchscript.urllib.request, "urlopen", open_tiny)
    url = "https://models.invalid/tiny.pt"
    with pytest.raises(ModelError, match="gave a file"):
        load_detector(url)
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))
    for _ in range(2):
        load_detector(f"{url}#sha256={digest(tiny)}")
    assert opened == [url, url]
    assert [path.name for path in (tmp_path / "cache" / "piflow").iterdir()] == [f"{digest(tiny)[:12]}-tiny.pt"]


def test_no_network_says_what_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def unreachable(url: str, timeout: float):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchscript.urllib.request, "urlopen", unreachable)
    with pytest.raises(ModelError, match=rf"network access download .*{INCEPTION_SHA256}.*pass its path"):
        load_detector(torchscript.INCEPTION_URL)
