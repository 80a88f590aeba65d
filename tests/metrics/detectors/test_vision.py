"""Vision models as detectors: features are the model's own, whatever its kind; pixels need no model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from piflow_cli.errors import ModelError
from piflow_cli.metrics.detectors.load import load_detector

TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SEED = 3


def dinov2() -> Dinov2Model:
    return Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28))


def vit() -> ViTModel:
    return ViTModel(ViTConfig(**TINY, image_size=28, patch_size=14), add_pooling_layer=False)


def clip() -> CLIPModel:
    return CLIPModel(
        CLIPConfig(
            text_config=TINY | {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2},
            vision_config=TINY | {"image_size": 28, "patch_size": 14},
            projection_dim=12,
        )
    )


@pytest.mark.parametrize(("make", "dim"), [(dinov2, 16), (vit, 16), (clip, 12)])
def test_features_are_the_models_own(make: type, dim: int, tmp_path: Path) -> None:
    torch.manual_seed(SEED)
    model = make().eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "crop_size": {"height": 28, "width": 28}}'
    )
    detector = load_detector(str(tmp_path))
    images = torch.rand(3, 3, 28, 28)
    pixels = (images - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    with torch.inference_mode():
        if dim == 12:
            expected = model.get_image_features(pixel_values=pixels).pooler_output
        else:
            output = model(pixel_values=pixels)
            expected = output.last_hidden_state[:, 0] if output.pooler_output is None else output.pooler_output
    assert detector.feature_dim == dim
    torch.testing.assert_close(detector(images).features, expected)
    assert detector.title("FID").startswith(f"FID ({model.config.model_type}-")
    wide = torch.cat([torch.zeros(1, 3, 28, 14), images[:1], torch.zeros(1, 3, 28, 14)], dim=3)
    torch.testing.assert_close(detector(wide).features, detector(images[:1]).features)  # the middle is seen
    grey = detector(torch.full((1, 1, 56, 56), 0.5)).features
    torch.testing.assert_close(grey, detector(torch.full((1, 3, 28, 28), 0.5)).features)


def test_what_is_no_vision_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        load_detector(str(tmp_path))
    BertModel(BertConfig(**TINY, vocab_size=99)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has to be a vision model of transformers, such as facebook/dinov2-base"):
        load_detector(str(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    save_file(dict(list(weights.items())[1:]), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the model's weights"):
        load_detector(str(tmp_path))
    for file in tmp_path.glob("*.safetensors"):
        file.rename(tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=r"has no \.safetensors and no pytorch_model\.bin"):
        load_detector(str(tmp_path))


def test_pixels_are_means_of_squares() -> None:
    images = torch.rand(2, 3, 64, 128)
    features = load_detector("pixels")(images).features
    expected = images.view(2, 3, 16, 4, 16, 8).mean(dim=(3, 5)).flatten(1)
    torch.testing.assert_close(features, expected)
    assert load_detector("pixels")(torch.rand(1, 1, 8, 8)).features.shape == (1, 3 * 16 * 16)


class Payload:
    """What a pickle would make whoever loads it do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return self.mark.touch, ()


def test_older_weights_are_read_as_tensors_alone(tmp_path: Path) -> None:
    """openai/clip-vit-large-patch14-336, which CMMD is by, is published as pytorch_model.bin."""
    torch.manual_seed(SEED)
    model = clip().eval()
    model.save_pretrained(tmp_path)
    images = torch.rand(2, 3, 28, 28)
    expected = load_detector(str(tmp_path))(images).features
    next(tmp_path.glob("*.safetensors")).unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    torch.testing.assert_close(load_detector(str(tmp_path))(images).features, expected)
    torch.save(model.state_dict() | {"logit_scale": Payload(tmp_path / "run")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be used as a detector"):
        load_detector(str(tmp_path))
    assert not (tmp_path / "run").exists()
