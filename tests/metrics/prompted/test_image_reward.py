"""ImageReward is a head on BLIP's first token: both networks are worked out here from the published file's tensors."""

import math
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hub_cache import cached_repository
from PIL import Image
from tiny_judges import WORDS, save_clip, save_image_reward
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm

from piflow_cli.errors import ModelError
from piflow_cli.metrics.metric import metric_of
from piflow_cli.metrics.prompted.image_reward import DEVIATION, MEAN, NUM_TOKENS, load

PROMPTS = ["a cat", "A red cat, and a dog", "a dog under a tree " * 20]
HEADS = {"blip.visual_encoder": 2, "blip.text_encoder": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image_reward(tmp_path_factory.mktemp("reward"))


def pictures(height: int = 40, width: int = 60) -> Tensor:
    levels = torch.randint(0, 256, (3, 3, height, width), generator=torch.Generator().manual_seed(1))
    return levels.float() / 255


class ByHand:
    """Both networks of BLIP as its code writes them, without a class of a library.

    Args:
        weights: of the published file.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
        q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(0, 1) for x in (q, k, v))  # (heads, T, D)
        shares = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        return (shares @ v).transpose(0, 1).flatten(1)

    def see(self, pixels: Tensor) -> Tensor:
        name, weights = "blip.visual_encoder", self.weights
        patches = conv2d(
            pixels[None],
            weights[f"{name}.patch_embed.proj.weight"],
            weights[f"{name}.patch_embed.proj.bias"],
            stride=16,
        )
        x = torch.cat([weights[f"{name}.cls_token"][0], patches[0].flatten(1).T]) + weights[f"{name}.pos_embed"][0]
        for layer in (0, 1):
            block = f"{name}.blocks.{layer}"
            qkv = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x, 1e-6))
            x = x + self.linear(f"{block}.attn.proj", self.attend(*qkv.chunk(3, dim=-1), HEADS[name]))
            inner = gelu(self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, 1e-6)))
            x = x + self.linear(f"{block}.mlp.fc2", inner)
        return self.norm(f"{name}.norm", x, 1e-6)

    def look(self, block: str, x: Tensor, at: Tensor) -> Tensor:
        q, k, v = (self.linear(f"{block}.self.{part}", y) for part, y in (("query", x), ("key", at), ("value", at)))
        seen = self.linear(f"{block}.output.dense", self.attend(q, k, v, HEADS["blip.text_encoder"]))
        return self.norm(f"{block}.output.LayerNorm", seen + x, 1e-12)

    def reward(self, pixels: Tensor, ids: list[int]) -> float:
        """Of one picture (3, S, S) and the words of its prompt, without padding."""
        name, patches = "blip.text_encoder", self.see(pixels)
        embeddings = f"{name}.embeddings"
        words = self.weights[f"{embeddings}.word_embeddings.weight"][ids]
        x = words + self.weights[f"{embeddings}.position_embeddings.weight"][: len(ids)]
        x = self.norm(f"{embeddings}.LayerNorm", x, 1e-12)
        for layer in (0, 1):
            block = f"{name}.encoder.layer.{layer}"
            x = self.look(f"{block}.attention", x, x)
            x = self.look(f"{block}.crossattention", x, patches)
            inner = gelu(self.linear(f"{block}.intermediate.dense", x))
            x = self.norm(f"{block}.output.LayerNorm", self.linear(f"{block}.output.dense", inner) + x, 1e-12)
        state = x[0]
        for number in (0, 2, 4, 6, 7):
            state = self.linear(f"mlp.layers.{number}", state)
        return (state.item() - MEAN) / DEVIATION


def words_of(prompt: str) -> list[int]:
    """Numbers of words by the vocabulary, between those of both ends, cut to 35."""
    known = [WORDS.index(word) if word in WORDS else 1 for word in prompt.lower().replace(",", " ,").split()]
    return [2, *known[: NUM_TOKENS - 2], 3]


def square(image: Tensor, side: int = 32) -> Tensor:
    """A picture of 40x60 as its code prepares it: the shorter side to `side`, the middle, CLIP's mean and deviation."""
    picture = Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    picture = picture.resize((side * 60 // 40, side), Image.Resampling.BICUBIC).crop((8, 0, 8 + side, side))
    levels = (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(side, side, 3).permute(2, 0, 1) / 255
    )
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    return (levels - mean) / torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def test_image_reward_is_that_of_the_published_file(folder: Path) -> None:
    metric = metric_of(f"image-reward={folder}")
    judge = metric.reads.load(metric.reads.model, "cpu")
    said = judge(pictures(), PROMPTS)
    by_hand = ByHand(torch.load(folder / "ImageReward.pt", weights_only=True))
    expected = [
        by_hand.reward(square(image), words_of(prompt)) for image, prompt in zip(pictures(), PROMPTS, strict=True)
    ]
    assert said.features.shape == (3, 1)
    assert said.features[:, 0].tolist() == pytest.approx(expected, rel=1e-4)
    assert len({round(value, 4) for value in expected}) == 3
    assert metric.compute(said, None, labels=None, seed=0) == {
        "image-reward": pytest.approx(sum(expected) / 3, rel=1e-4)
    }
    assert judge.title("image-reward").startswith("image-reward (image-reward-")
    assert "35 tokens, weights " in judge.described()


def test_pictures_and_words_both_count(folder: Path) -> None:
    judge = load(str(folder), "cpu")
    image = pictures()[:1]
    rewards = [
        judge(picture, [prompt]).features.item()
        for picture, prompt in ((image, "a cat"), (image, "a dog"), (1 - image, "a cat"))
    ]
    assert len({round(reward, 5) for reward in rewards}) == 3
    grey = image[:, :1]
    torch.testing.assert_close(judge(grey, ["a cat"]).features, judge(grey.expand(-1, 3, -1, -1), ["a cat"]).features)


def test_weights_of_the_hub_are_read_with_berts_words(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    metric = metric_of("image-reward")
    (save_image_reward(cached_repository(tmp_path, "THUDM/ImageReward")) / "vocab.txt").unlink()
    with pytest.raises(ModelError, match=r"has no vocab\.txt, and that of google-bert/bert-base-uncased cannot be had"):
        metric.reads.load(metric.reads.model, "cpu")
    words = cached_repository(tmp_path, "google-bert/bert-base-uncased") / "vocab.txt"
    words.write_bytes((folder / "vocab.txt").read_bytes())
    judge, known = metric.reads.load(metric.reads.model, "cpu"), load(str(folder), "cpu")
    assert judge.described() == known.described()
    torch.testing.assert_close(judge(pictures(), PROMPTS).features, known(pictures(), PROMPTS).features)


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("mlp.layers.4.bias", None, r"head is .*4\.bias.*; the weights have 0\.bias"),
        ("blip.visual_encoder.pos_embed", None, "are not ImageReward's"),
        (
            "blip.visual_encoder.blocks.1.attn.proj.bias",
            None,
            r"missing encoder\.layers\.1\.self_attn\.projection\.bias",
        ),
        ("blip.text_encoder.encoder.layer.0.crossattention.self.key.weight", torch.zeros(64, 64), "needs .64, 128"),
        ("blip.text_encoder.pooler.dense.weight", torch.zeros(64, 64), r"unknown pooler\.dense\.weight"),
    ],
)
def test_other_weights_are_refused(folder: Path, tmp_path: Path, name: str, tensor: Tensor | None, words: str) -> None:
    weights = torch.load(folder / "ImageReward.pt", weights_only=True) | {name: tensor}
    torch.save({key: value for key, value in weights.items() if value is not None}, tmp_path / "ImageReward.pt")
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    with pytest.raises(ModelError, match=words):
        load(str(tmp_path), "cpu")


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no ImageReward\.pt and no \.safetensors"):
        load(str(tmp_path), "cpu")
    clip = save_clip(tmp_path / "clip")
    (clip / "vocab.txt").write_text("\n".join(WORDS))
    with pytest.raises(ModelError, match="are not ImageReward's"):
        load(str(clip), "cpu")
