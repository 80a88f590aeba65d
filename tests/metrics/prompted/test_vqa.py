"""VQAScore is the share of "Yes" in what the model would say next, written out for each picture alone."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_judges import save_clip, save_llava
from torch import Tensor
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.processing_llava import LlavaProcessor

from piflow_cli.errors import ModelError
from piflow_cli.metrics.metric import metric_of

PROMPTS = ["a cat", "a red cat and a dog", "a dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


def said_alone(folder: Path, image: Tensor, prompt: str) -> float:
    """By transformers, without padding or a batch: exp(-loss) of the answer "Yes"."""
    model, processor = (
        LlavaForConditionalGeneration.from_pretrained(folder).eval(),
        LlavaProcessor.from_pretrained(folder),
    )
    picture = Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    question = f'USER: <image>\nDoes this figure show "{prompt}"? Please answer yes or no. ASSISTANT:'
    given = processor(images=picture, text=question + "Yes", return_tensors="pt")
    labels = torch.full_like(given.input_ids, -100)
    labels[:, -1] = given.input_ids[:, -1]
    assert processor.tokenizer.decode(given.input_ids[0, -1]) == "Yes"
    with torch.inference_mode():
        return model(**given, labels=labels).loss.neg().exp().item()


def test_vqa_score_is_the_probability_of_yes(folder: Path) -> None:
    images = torch.randint(0, 256, (3, 3, 40, 60), generator=torch.Generator().manual_seed(1)).float() / 255
    metric = metric_of(f"vqa-score={folder}")
    judge = metric.reads.load(metric.reads.model, "cpu")
    said = judge(images, PROMPTS)
    expected = [said_alone(folder, image, prompt) for image, prompt in zip(images, PROMPTS, strict=True)]
    assert said.features[:, 0].tolist() == pytest.approx(expected, rel=1e-4)
    assert len({round(value, 7) for value in expected}) == 3
    score = metric.compute(said, None, labels=None, seed=0)
    assert score == {"vqa-score": pytest.approx(sum(expected) / 3, rel=1e-4)}
    assert judge.title("vqa-score").startswith("vqa-score (llava-")


def test_prompts_may_hold_anything(folder: Path) -> None:
    judge = metric_of("vqa-score").reads.load(str(folder), "cpu")
    images = torch.rand(1, 3, 28, 28)
    odd, plain = judge(images, ["a <image> {cat} {}"]).features, judge(images, ["a   {cat} {}"]).features
    torch.testing.assert_close(odd, plain)


def test_what_is_no_model_of_conversations_is_refused(tmp_path: Path) -> None:
    load = metric_of("vqa-score").reads.load
    with pytest.raises(ModelError, match="it has no chat template"):
        load(str(save_llava(tmp_path / "mute", template=None)), "cpu")
    with pytest.raises(ModelError, match="cannot be used as an image-text model"):
        load(str(save_clip(tmp_path / "clip")), "cpu")
