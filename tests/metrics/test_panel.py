"""Who looks at pictures: metrics that read the same share it, and what cannot be loaded says for which metric."""

from pathlib import Path

import pytest
import torch
from tiny_detector import save_detector
from tiny_judges import save_clip, save_llava

from piflow_cli.errors import DataError, ModelError
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.detectors.reference import load_reference
from piflow_cli.metrics.frechet.patch_fid import PATCH_PX, PatchDetector
from piflow_cli.metrics.metric import WHOLE, metric_of
from piflow_cli.metrics.panel import Panel, seats_of

CPU = torch.device("cpu")


def panel(*specs: str, detector: str = "pixels") -> Panel:
    return Panel.of([metric_of(spec) for spec in specs], load_detector(detector), device=CPU)


def test_metrics_that_read_the_same_share_one_model(tmp_path: Path) -> None:
    clip = save_clip(tmp_path)
    specs = [f"cmmd={clip}", f"vendi={clip}", "fid", "kid", f"clip-score={clip}"]
    seated = panel(*specs)
    metrics = [metric_of(spec) for spec in specs]
    assert len(seats_of(metrics)) == 3
    assert len(seated.detectors) == len(seated.judges) == 1
    seen = seated.look(torch.rand(40, 3, 28, 28), ["a cat"] * 40, seats_of(metrics))
    assert {tuple(found.features.shape) for found in seen.values()} == {(40, 12), (40, 768), (40, 1)}
    assert set(seated.names(metrics)) == {"cmmd", "vendi", "clip-score"}
    assert seated.title(metrics[2], "FID") == "FID (pixels)"
    assert seated.title(metrics[0], "cmmd").startswith("cmmd (clip-")
    whole = seated.detector_of(metrics[0].reads)(torch.ones(2, 3, 28, 28)).features
    torch.testing.assert_close(
        seated.look(torch.ones(2, 3, 28, 28), None, [metrics[0].reads])[metrics[0].reads].features, whole
    )


def test_patches_are_the_middle_of_pictures_at_full_size(tmp_path: Path) -> None:
    spec = save_detector(tmp_path / "colours.pt")
    metric = metric_of("patch-fid")
    seated = panel("patch-fid", "fid", detector=spec)
    images = torch.rand(2, 3, PATCH_PX + 5, PATCH_PX + 20)
    seen = seated.look(images, None, [metric.reads, WHOLE])
    middle = images[:, :, 2 : 2 + PATCH_PX, 10 : 10 + PATCH_PX]
    torch.testing.assert_close(seen[metric.reads].features, seated.detector(middle).features)
    torch.testing.assert_close(seen[WHOLE].features, seated.detector(images).features)
    with pytest.raises(DataError, match=r"middle 299x299 pixels, and pictures have 64x298"):
        seated.look(torch.rand(2, 3, 298, 64), None, [metric.reads])


def test_references_of_patches_are_no_references_of_pictures(tmp_path: Path) -> None:
    whole = load_detector("emoji-cnn")
    with pytest.raises(DataError, match="emoji-cnn-patch299"):
        load_reference("emoji", detector=PatchDetector(whole))


def test_what_is_missing_says_how_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for spec, model in {
        "clip-score": "openai/clip-vit-large-patch14-336",
        "fd-dinov2": "facebook/dinov2-large",
    }.items():
        with pytest.raises(ModelError) as told:
            panel(spec)
        message = str(told.value)
        assert f"{spec} cannot be measured: cannot get '{model}'" in message
        assert f"hf download {model} --local-dir FOLDER" in message
        assert message.endswith(f"--metric {spec}=FOLDER")


def test_a_model_that_is_no_classifier_gives_no_inception_score(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is needs a classifier"):
        panel(f"is={save_clip(tmp_path)}")


def test_judges_say_what_decides_their_words(tmp_path: Path) -> None:
    specs = [f"clip-score={save_clip(tmp_path / 'a')}", f"hpsv2={save_clip(tmp_path / 'b')}"]
    metrics = [metric_of(spec) for spec in (*specs, f"vqa-score={save_llava(tmp_path / 'c')}")]
    described = Panel.of(metrics, load_detector("pixels"), device=CPU).described(metrics)
    first, second, third = (next(text for who, text in described.items() if m.name in who) for m in metrics)
    assert "covering a square" in first
    assert "letterboxed a square" in second
    assert first.partition("CLIPImageProcessorPil")[2] == second.partition("CLIPImageProcessorPil")[2]  # same files
    assert 'asked \'Does this figure show "{}"?' in third
    (save_clip(tmp_path / "a") / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor"}'
    )
    changed = Panel.of(metrics[:1], load_detector("pixels"), device=CPU).described(metrics[:1])
    assert next(text for who, text in changed.items() if "clip-score" in who) != first
