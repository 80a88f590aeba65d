"""The emoji feature network trains, stops, goes on as if it had not stopped, and is whitened, judged and shipped."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from piflow_cli.errors import StorageError
from piflow_cli.metrics.detectors.emoji_net import FEATURE_DIM, HIDDEN_DIM, MEASURED_DIM, EmojiNet
from piflow_cli.metrics.detectors.features import mean_and_cov
from piflow_cli.metrics.detectors.load import EmojiDetector
from piflow_cli.metrics.detectors.reference import load_reference
from piflow_cli.metrics.detectors.surface import surface
from piflow_cli.zoo.emoji.build.data.pictures import Emoji, Pictures
from piflow_cli.zoo.emoji.build.features import (
    FeaturesTask,
    base_emoji,
    class_labels,
    fit_whitening,
    held_out_styles,
    train_features,
    vary,
)
from piflow_cli.zoo.emoji.build.training.loop import Habits
from piflow_cli.zoo.emoji.build.training.schedule import Budget, Recipe

RECIPE = Recipe(muon_lr=3e-3, adam_lr=1e-3, seed=0, batch_size=4, warmup_steps=2, decay_share=0.5)
QUIET = Habits(line_s=1e9, judge_s=1e9, save_s=1e9)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Twenty emoji in three styles, one of which has two skin tones in every style."""
    plain = [Emoji(f"1f{i:02d}", f"1f{i:02d}", f"thing {i}", (), "g", "") for i in range(20)]
    tones = [Emoji(f"1f00-{tone}", "1f00", f"thing 0: {tone} skin tone", (), "g", "") for tone in ("dark", "light")]
    emoji = tuple(e for e in (*plain, *tones) for _ in range(3))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(emoji), 3, 8, 8), generator=generator, dtype=torch.uint8)
    images = images.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    held_out = torch.zeros(len(emoji), dtype=torch.bool)
    return Pictures(images=images, emoji=emoji, style=torch.arange(len(emoji)) % 3, held_out=held_out)


def train(pictures: Pictures, work: Path, *, num_steps: int = 4, recipe: Recipe = RECIPE) -> Path | None:
    device = torch.device("cpu")
    return train_features(pictures, work, budget=Budget(steps=num_steps), device=device, recipe=recipe, habits=QUIET)


@pytest.fixture(scope="module")
def trained(pictures: Pictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    assert train(pictures, work) == work / "features" / "model"
    return work


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same(first: Path, second: Path) -> None:
    """Two folders of the network, bit for bit; only the metadata of safetensors files has no fixed order."""
    assert (first / "config.json").read_bytes() == (second / "config.json").read_bytes()
    for name in ("model.safetensors", "reference.safetensors"):
        tensors, others = load_file(first / name), load_file(second / name)
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[key], others[key]) for key in tensors)


def test_interrupted_training_equals_the_uninterrupted(
    pictures: Pictures, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = FeaturesTask.loss, []

    def stopping(self: FeaturesTask, generator: torch.Generator) -> Tensor:
        calls.append(None)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, generator)

    with monkeypatch.context() as patched:
        patched.setattr(FeaturesTask, "loss", stopping)
        assert train(pictures, tmp_path) is None
    folder = train(pictures, tmp_path)
    assert folder is not None
    assert_same(folder, trained / "features" / "model")
    assert (tmp_path / "features" / "previews" / "00000004.png").exists()
    with pytest.raises(StorageError, match="another recipe"):
        train(pictures, tmp_path, recipe=Recipe(muon_lr=1.0, adam_lr=1e-3, seed=0, batch_size=4))


def test_reference_is_of_the_plain_pictures_and_the_stored_weights(pictures: Pictures, trained: Path) -> None:
    folder = trained / "features" / "model"
    detector = EmojiDetector.from_folder(folder)
    reference = load_reference(folder / "reference.safetensors", detector=detector)
    features = detector(pictures.images[:60].float() / 255).features
    assert reference.num_samples == 60
    level = features.abs().amax(dim=0) / 127  # (D,)
    assert ((reference.features - features).abs() <= level / 2 + 1e-5).all()
    mean, cov = mean_and_cov(features)
    assert torch.allclose(reference.mean, mean, atol=5e-3)
    assert torch.allclose(reference.cov, cov, atol=2e-2)
    config = json.loads((folder / "config.json").read_text())
    assert config["classes"] == [f"thing {i}" for i in range(20)]
    result = json.loads((trained / "features" / "result.json").read_text())
    assert round(result["held_out_accuracy"], 4) == config["held_out_accuracy"]
    assert (result["step"], result["pictures"]) == (4, 16)


def test_features_are_the_principal_components_of_what_is_measured() -> None:
    """By singular values of the measured pictures, another way than the code's; signs of directions are free."""
    torch.manual_seed(0)
    net = EmojiNet(5).eval()
    images = torch.randint(0, 256, (700, 3, 64, 64), dtype=torch.uint8)
    before = {name: value.clone() for name, value in net.state_dict().items() if "whitening" not in name}
    fit_whitening(net, images)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items()), "nothing else changes"
    with torch.no_grad():
        measured, (features, logits) = net.measure(images.float() / 255).double(), net(images.float() / 255)
    assert (measured.shape, features.shape) == ((700, MEASURED_DIM), (700, FEATURE_DIM))
    left, _, _ = torch.linalg.svd((measured - measured.mean(dim=0)) / measured.std(dim=0), full_matrices=False)
    likeness = (left[:, :20].T @ features[:, :20].double() / 699**0.5).abs()
    assert torch.allclose(likeness, torch.eye(20).double(), atol=0.02)
    mean, cov = mean_and_cov(features)
    assert mean.abs().max() < 1e-2
    assert torch.allclose(cov, torch.eye(FEATURE_DIM).double(), atol=0.02)
    assert torch.allclose(logits, net.classifier(measured[:, -HIDDEN_DIM:].float()), atol=1e-5)


def test_measured_are_the_surface_means_of_every_stage_and_the_last_layer() -> None:
    torch.manual_seed(0)
    net = EmojiNet(5).eval()
    images = torch.rand(2, 3, 64, 64)
    measured, maps, begun = net.measure(images), images * 2 - 1, 36
    assert torch.equal(measured[:, :36], surface(images))
    for stage, channels in zip(net.stages, (32, 64, 128, 128), strict=True):
        maps = stage(maps)
        assert torch.allclose(measured[:, begun : begun + channels], maps.flatten(2).mean(dim=2), atol=1e-6)
        begun += channels
    assert torch.allclose(measured[:, begun:], net.hidden(maps.flatten(1)), atol=1e-6)


def test_directions_in_which_nothing_differs_are_not_blown_up(pictures: Pictures) -> None:
    torch.manual_seed(0)
    net = EmojiNet(5).eval()
    fit_whitening(net, pictures.images[:3])
    features, _ = net(pictures.images[:3].float() / 255)
    _, cov = mean_and_cov(features.detach())
    assert cov.diag().max() < 1.01
    assert cov.diag()[:2] == pytest.approx([1, 1], abs=0.01), "three pictures differ in two directions"


def test_held_out_styles_leave_the_others(pictures: Pictures) -> None:
    plain = tuple(Emoji(f"{i:x}", f"{i:x}", "", (), "", "") for i in range(1000) for _ in range(3))
    style = torch.arange(3000) % 3
    held_out = held_out_styles(plain, style).view(1000, 3)
    assert held_out.sum(dim=1).max() == 1
    assert 0.03 < held_out.double().mean() < 0.07
    assert held_out.sum(dim=0).min() > 25, "of every style"
    toned = held_out_styles(pictures.emoji, pictures.style)
    assert toned[0:3].equal(toned[60:63]), "skin tones go with their base"
    task = FeaturesTask(pictures, batch_size=4, device=torch.device("cpu"))
    assert task.weights[toned].eq(0).all()
    assert task.weights[~toned].gt(0).all()


def test_classes_are_the_emoji_without_skin_tones(pictures: Pictures) -> None:
    labels = class_labels(pictures.emoji)
    assert [e.key for e in base_emoji(pictures.emoji)] == [f"1f{i:02d}" for i in range(20)]
    assert labels[:6].tolist() == [0, 0, 0, 1, 1, 1]
    assert labels[60:].eq(0).all()


def test_variation_is_mild_and_keeps_white() -> None:
    generator = torch.Generator().manual_seed(0)
    assert vary(torch.ones(4, 3, 64, 64), generator).eq(1).all()
    dot = torch.ones(64, 3, 64, 64)
    dot[:, :, 30:34, 30:34] = 0.5
    varied = vary(dot, generator)
    ink = 1 - varied
    rows = (ink.sum(dim=(1, 3)) * torch.arange(64)).sum(dim=1) / ink.sum(dim=(1, 2, 3))  # (64,)
    assert 1.5 < (rows - 31.5).abs().max() < 3.3
    assert varied.min() >= 0.44
    assert not torch.equal(varied, vary(dot, generator))
