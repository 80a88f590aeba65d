"""CLIP score, PickScore and HPSv2 are cosines by the model's own classes; pictures are prepared as each was trained."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_judges import SIZE_PX, save_clip
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertModel, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from piflow_cli.errors import DataError, ModelError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.metric import Judge, metric_of
from piflow_cli.metrics.prompted.clip import letterboxed, load_clip

PROMPTS = ["a cat", "a red cat and a dog", "a dog " * 30]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def pictures(height: int = 40, width: int = 60) -> Tensor:
    levels = torch.randint(0, 256, (3, 3, height, width), generator=torch.Generator().manual_seed(1))
    return levels.float() / 255


def cosines(folder: Path, images: Tensor) -> Tensor:
    """By transformers alone, picture by picture: PIL in, embeddings out."""
    model = CLIPModel.from_pretrained(folder).eval()
    processor, tokenizer = CLIPImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for image, prompt in zip(images, PROMPTS, strict=True):
        picture = Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
        tokens = tokenizer(prompt, truncation=True, max_length=16, return_tensors="pt")
        with torch.inference_mode():
            output = model(**tokens, **processor(picture, return_tensors="pt"))
        found.append((output.image_embeds * output.text_embeds).sum())
    return torch.stack(found)


def judged(spec: str, images: Tensor) -> tuple[Judge, Tensor, float]:
    """The judge, what it says (N,), and the score."""
    metric = metric_of(spec)
    judge = metric.reads.load(metric.reads.model, "cpu")
    said = judge(images, PROMPTS)
    unused = Reference("none", "none", torch.zeros(1), torch.zeros(1, 1), None, 0)
    (score,) = metric.compute(said, unused, labels=None, seed=0).values()
    return judge, said.features[:, 0], score


def test_clip_score_is_a_hundred_times_the_cosine(folder: Path) -> None:
    expected = 100 * cosines(folder, pictures())
    judge, said, score = judged(f"clip-score={folder}", pictures())
    torch.testing.assert_close(said, expected)
    assert score == pytest.approx(expected.clamp(min=0).mean().item())
    assert judge.title("clip-score").startswith("clip-score (clip-")


def test_clip_score_counts_no_cosine_below_zero() -> None:
    compute = metric_of("clip-score").compute
    assert compute(FeatureSet(torch.tensor([[30.0], [-10.0]])), None, labels=None, seed=0) == {"clip-score": 15.0}


def test_pickscore_is_the_cosine_by_the_models_own_scale(folder: Path) -> None:
    scale = CLIPModel.from_pretrained(folder).logit_scale.exp().item()
    _, said, score = judged(f"pickscore={folder}", pictures())
    torch.testing.assert_close(said, scale * cosines(folder, pictures()))
    assert score == pytest.approx(said.mean().item())


def test_hpsv2_sees_square_pictures_as_clip_does_and_others_whole(folder: Path) -> None:
    square = pictures(SIZE_PX, SIZE_PX)
    _, said, score = judged(f"hpsv2={folder}", square)
    torch.testing.assert_close(said, 100 * cosines(folder, square))
    assert score == pytest.approx(said.mean().item())
    white = letterboxed(load_clip(str(folder), "cpu", scale=1.0), torch.ones(1, 3, 2 * SIZE_PX, SIZE_PX))
    levels = white * torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    levels += torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    expected = torch.zeros(SIZE_PX, SIZE_PX)
    expected[:, SIZE_PX // 4 : SIZE_PX // 4 + SIZE_PX // 2] = 1
    torch.testing.assert_close(levels[0, 0], expected, atol=1e-5, rtol=0)


def test_weights_published_as_bin_judge_alike(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(CLIPModel.from_pretrained(folder).state_dict(), tmp_path / "pytorch_model.bin")
    torch.testing.assert_close(
        judged(f"pickscore={tmp_path}", pictures())[1], judged(f"pickscore={folder}", pictures())[1]
    )


def test_grey_pictures_are_judged_as_three_equal_channels(folder: Path) -> None:
    grey = pictures()[:, :1]
    torch.testing.assert_close(
        judged(f"clip-score={folder}", grey)[1], judged(f"clip-score={folder}", grey.expand(-1, 3, -1, -1))[1]
    )


def test_what_cannot_judge_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hpsv2 has no model to be judged by: write --metric hpsv2=FOLDER"):
        metric_of("hpsv2")
    with pytest.raises(DataError, match="names no model after the sign"):
        metric_of("clip-score=")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_clip(str(tmp_path), "cpu", scale=1.0)
    BertModel(
        BertConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a CLIPModel of transformers"):
        load_clip(str(tmp_path), "cpu", scale=1.0)
    with pytest.raises(DataError, match="scores that are not finite"):
        metric_of("pickscore").compute(FeatureSet(torch.tensor([[torch.nan]])), None, labels=None, seed=0)
