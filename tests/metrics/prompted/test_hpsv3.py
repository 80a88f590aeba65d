"""HPSv3 is the first number of a head on one state of a Qwen2-VL, worked out here from the published file's tensors."""

import hashlib
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hub_cache import cached_repository
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_judges import save_clip, save_hpsv3, save_qwen2_vl
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from piflow_cli.errors import ModelError
from piflow_cli.metrics.metric import metric_of
from piflow_cli.metrics.prompted.hpsv3 import PIXELS, QUESTION, PreferenceJudge, load

PROMPTS = ["a cat", "a red cat and a dog under a tree, by night", "a dog"]
SEEN = (392, 560)
"""Height and width in which a picture of 40x60 is seen: 200704 / 2400 = 9.1447**2, rounded up to whole 28s."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_qwen2_vl(tmp_path_factory.mktemp("hpsv3"))
    return save_hpsv3(folder, folder)


def pictures() -> Tensor:
    levels = torch.randint(0, 256, (3, 3, 40, 60), generator=torch.Generator().manual_seed(1))
    return levels.float() / 255


@torch.inference_mode()
def preferred(folder: Path, image: Tensor, prompt: str, *, as_picture: bool = False) -> float:
    """Of one picture, without padding, a batch, or a class for rewards.

    Args:
        as_picture: whether positions are two-dimensional within the picture, as Qwen2-VL has them elsewhere.
    """
    weights, config = load_file(folder / "HPSv3.safetensors"), AutoConfig.from_pretrained(folder)
    config.text_config.vocab_size = len(weights["model.embed_tokens.weight"])
    network = Qwen2VLForConditionalGeneration(config).eval()
    network.load_state_dict(
        {
            name.replace("visual.", "model.visual.", 1)
            if name.startswith("visual.")
            else name.replace("model.", "model.language_model.", 1): tensor
            for name, tensor in weights.items()
            if not name.startswith("rm_head.")
        }
    )
    picture = Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    picture = picture.resize(SEEN[::-1], Image.Resampling.BICUBIC)
    seen = Qwen2VLImageProcessorPil(do_resize=False)(images=picture, return_tensors="pt")
    num_tokens = SEEN[0] // 28 * SEEN[1] // 28
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        + "<|image_pad|>" * num_tokens
        + f"<|vision_end|>{QUESTION.format(prompt)}<|im_end|>\n<|im_start|>assistant\n"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before, after = (tokenizer(part, return_tensors="pt").input_ids for part in text.split("<|Reward|>"))
    ids = torch.cat([before, torch.tensor([[len(tokenizer)]]), after], dim=1)
    embeddings = weights["model.embed_tokens.weight"][ids]
    (patches,) = network.get_image_features(seen.pixel_values, seen.image_grid_thw).pooler_output
    embeddings[ids == config.image_token_id] = patches
    if as_picture:
        kinds = (ids == config.image_token_id).int()
        positions, _ = network.model.get_rope_index(ids, kinds, seen.image_grid_thw)
    else:
        positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    states = network.model.language_model(inputs_embeds=embeddings, position_ids=positions).last_hidden_state
    read = states[0, before.shape[1]]
    for layer in (0, 3, 5):
        read = weights[f"rm_head.{layer}.weight"] @ read + weights[f"rm_head.{layer}.bias"]
        read = read if layer == 5 else read.clamp(min=0)
    return read[0].item()


def test_hpsv3_is_the_mean_of_the_published_head(folder: Path) -> None:
    metric = metric_of(f"hpsv3={folder}")
    judge = metric.reads.load(metric.reads.model, "cpu")
    said = judge(pictures(), PROMPTS)
    expected = [preferred(folder, image, prompt) for image, prompt in zip(pictures(), PROMPTS, strict=True)]
    assert said.features.shape == (3, 1)
    assert said.features[:, 0].tolist() == pytest.approx(expected, rel=1e-4)
    assert len({round(value, 5) for value in expected}) == 3
    assert metric.compute(said, None, labels=None, seed=0) == {"hpsv3": pytest.approx(sum(expected) / 3, rel=1e-4)}
    assert metric.better == "higher"
    assert judge.title("hpsv3").startswith("hpsv3 (hpsv3-")
    assert "float32, weights " in judge.described()
    elsewhere = preferred(folder, pictures()[0], PROMPTS[0], as_picture=True)
    assert abs(elsewhere - expected[0]) > 1e-3 * abs(expected[0])


def test_the_question_is_the_one_that_was_published() -> None:
    assert QUESTION.startswith("\nYou are tasked with evaluating a generated image")
    assert "\nTextual prompt - {}\n\n\n\nPlease provide the overall ratings" in QUESTION
    assert QUESTION.endswith(" of this image: <|Reward|>\n\nEND\n")
    digest = "8c1fc61108c0b8e9c664e60a6a31bc2880cadf8950e81ca86c9b3a3be6794b0e"
    assert hashlib.sha256(QUESTION.encode()).hexdigest() == digest  # spaces at the ends of lines are part of it


@pytest.mark.parametrize(
    ("size", "seen"), [((1024, 1024), (448, 448)), ((64, 64), (448, 448)), ((40, 60), SEEN), ((768, 1360), (336, 588))]
)
def test_pictures_are_seen_in_about_as_many_pixels(folder: Path, size: tuple[int, int], seen: tuple[int, int]) -> None:
    judge = load(str(folder), "cpu")
    grid = judge.images(images=Image.new("RGB", size[::-1]), return_tensors="pt").image_grid_thw[0].tolist()
    assert grid == [1, seen[0] // 14, seen[1] // 14]
    assert PIXELS == 448 * 448


def test_prompts_may_hold_anything(folder: Path) -> None:
    judge = load(str(folder), "cpu")
    odd = judge(pictures()[:1], ["a <|Reward|><|image_pad|> {cat} {}"]).features
    torch.testing.assert_close(odd, judge(pictures()[:1], ["a    {cat} {}"]).features)
    grey = pictures()[:1, :1]
    torch.testing.assert_close(judge(grey, ["a cat"]).features, judge(grey.expand(-1, 3, -1, -1), ["a cat"]).features)


def test_weights_of_the_hub_are_used_with_the_configuration_of_their_base(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    metric = metric_of("hpsv3")
    save_hpsv3(cached_repository(tmp_path, "MizzenAI/HPSv3"), folder)
    with pytest.raises(ModelError, match=r"has no config\.json, and that of Qwen/Qwen2-VL-7B-Instruct cannot be had"):
        metric.reads.load(metric.reads.model, "cpu")
    save_qwen2_vl(cached_repository(tmp_path, "Qwen/Qwen2-VL-7B-Instruct"))
    judge = metric.reads.load(metric.reads.model, "cpu")
    known = load(str(folder), "cpu")
    assert (judge.name, judge.described()) == (known.name, known.described())
    torch.testing.assert_close(judge(pictures(), PROMPTS).features, known(pictures(), PROMPTS).features)


def changed(folder: Path, target: Path, **tensors: Tensor | None) -> PreferenceJudge:
    """The judge of a copy some of whose tensors are others, or None and left out."""
    save_qwen2_vl(target)
    weights = load_file(folder / "HPSv3.safetensors") | tensors
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, target / "HPSv3.safetensors")
    return load(str(target), "cpu")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"rm_head.3.bias": None}, r"head is rm_head\.0\.bias.*; the weights have rm_head\.0\.bias"),
        ({"rm_head.7.bias": torch.zeros(2)}, r"the weights have .*rm_head\.7\.bias"),
        ({"model.norm.weight": None}, r"lack 1 of a Qwen2-VL's, such as language_model\.norm\.weight"),
        ({"model.embed_tokens.weight": torch.zeros(276, 16)}, "have 276 embeddings of tokens.* has 277"),
        ({"rm_head.0.weight": torch.zeros(12, 15)}, "cannot be used as HPSv3: .*in loading state_dict"),
    ],
)
def test_other_weights_are_refused(folder: Path, tmp_path: Path, tensors: dict[str, Tensor | None], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        changed(folder, tmp_path, **tensors)


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is the configuration of clip; HPSv3 is a qwen2_vl"):
        load(str(save_clip(tmp_path / "clip")), "cpu")
    with pytest.raises(ModelError, match=r"has no HPSv3\.safetensors"):
        load(str(save_qwen2_vl(tmp_path / "base")), "cpu")
