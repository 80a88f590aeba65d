"""ImageReward (arXiv 2304.05977): what people prefer of pictures of a prompt, by BLIP in classes of transformers.

Facts of the published model: github.com/THUDM/ImageReward, and of BLIP's networks: github.com/salesforce/BLIP.
"""
# B pictures, S side in pixels, T tokens, D width.

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from piflow_cli.errors import ModelError
from piflow_cli.io.checksums import tensors_sha256
from piflow_cli.io.hub import fetch_folder, locate
from piflow_cli.io.pictures import to_pictures
from piflow_cli.io.weights import check_shapes, read_weights
from piflow_cli.metrics.detectors.features import FeatureSet
from piflow_cli.metrics.detectors.folders import SAFE, ModelFolder
from piflow_cli.metrics.metric import Judgement
from piflow_cli.metrics.prompted.models import judged_metric, prepared, used_as

IMAGE_REWARD, FILE = "THUDM/ImageReward", "ImageReward.pt"
WORDS, VOCABULARY = "google-bert/bert-base-uncased", "vocab.txt"
"""Whose words prompts are read in; the published weights come without."""
NUM_TOKENS = 35
"""Of a prompt; what is longer is cut."""
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Of rewards as they leave the head, on the data that it was trained on."""
HEAD_DIM = 64
"""Of the attention of both networks, whatever their width."""
VISION, TEXT, HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
LAYERS = (0, 2, 4, 6, 7)
"""Linear layers of the head, with dropout between them and no activation."""
RENAMED = (
    (r"^cls_token", "embeddings.class_embedding"),
    (r"^pos_embed", "embeddings.position_embedding"),
    (r"^patch_embed\.proj", "embeddings.patch_embedding"),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm(\d)", r"encoder.layers.\1.layer_norm\2"),
    (r"^blocks\.(\d+)\.attn\.proj", r"encoder.layers.\1.self_attn.projection"),
    (r"^blocks\.(\d+)\.attn\.qkv", r"encoder.layers.\1.self_attn.qkv"),
    (r"^blocks\.(\d+)\.mlp", r"encoder.layers.\1.mlp"),
)
"""Names of BLIP's own vision network, and transformers' names; those of its text network are the same."""


@dataclass(frozen=True)
class RewardModel:
    """What ImageReward is made of.

    Args:
        vision: transformers' BlipVisionModel.
        text: transformers' BlipTextModel, whose tokens look at patches.
        head: of the first token's state (B, D), a reward (B, 1).
        images: makes squares of pictures, by Pillow.
        tokenizer: of prompts.
        name: of model and weights.
    """

    vision: Any
    text: Any
    head: nn.Sequential
    images: Any
    tokenizer: Any
    name: str


class RewardJudge:
    """Says (B, 1): the reward of a picture for its prompt, of mean 0 and deviation 1 on the data it was trained on.

    Args:
        model: ImageReward.
    """

    def __init__(self, model: RewardModel, *, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.vision, self.text = model.vision.to(self.device), model.text.to(self.device)
        self.head, self.images, self.tokenizer = model.head.to(self.device), model.images, model.tokenizer
        self.name = model.name

    def title(self, metric: str) -> str:
        """Names the model: scores of others do not compare."""
        return f"{metric} ({self.name})"

    def described(self) -> str:
        """Preparation, tokens and weights."""
        parts = {"vision": self.vision, "text": self.text, "head": self.head}
        weights = {f"{name}.{key}": t for name, part in parts.items() for key, t in part.state_dict().items()}
        return f"{prepared(self.images)}, {NUM_TOKENS} tokens, weights {tensors_sha256(weights)[:12]}"

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> FeatureSet:
        """Rewards (B, 1) of pictures (B, C, H, W) in [0, 1] and their B prompts."""
        pixels = self.images(images=to_pictures(images.expand(-1, 3, -1, -1)), return_tensors="pt").pixel_values
        patches = self.vision(pixel_values=pixels.to(self.device)).last_hidden_state  # (B, 1 + patches, D)
        given = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=NUM_TOKENS, return_tensors="pt"
        ).to(self.device)  # (B, T)
        states = self.text(
            input_ids=given.input_ids, attention_mask=given.attention_mask, encoder_hidden_states=patches
        ).last_hidden_state  # (B, T, D)
        return FeatureSet(((self.head(states[:, 0]) - MEAN) / DEVIATION).cpu())


def load(spec: str, device: str | torch.device) -> RewardJudge:
    """A judge that says ImageReward's reward, in float32.

    Args:
        spec: a folder or hub id with the weights, and with a vocabulary where it is not that of BERT on the hub.

    Raises:
        ModelError: it cannot be had, or holds other weights.
    """
    found = locate(spec, part="detector")
    folder = found if isinstance(found, Path) else fetch_folder(found, (FILE, VOCABULARY, SAFE))
    file = next((path for path in (folder / FILE, *sorted(folder.glob(SAFE))) if path.is_file()), None)
    if file is None:
        raise ModelError(f"{folder} has no {FILE} and no .safetensors, one of which holds ImageReward's weights")
    words = folder if (folder / VOCABULARY).is_file() else _words(folder)
    name = ModelFolder(folder, is_safe=file.name != FILE, first=file).name("image-reward")
    with used_as("ImageReward", spec):
        model = _assembled(read_weights(file), words, name=name)
    return RewardJudge(model, device=device)


def _words(folder: Path) -> Path:
    """The folder of BERT's vocabulary.

    Raises:
        ModelError: it cannot be had.
    """
    try:
        return fetch_folder(WORDS, (VOCABULARY,))
    except ModelError as error:
        raise ModelError(
            f"{folder} has no {VOCABULARY}, and that of {WORDS} cannot be had. Where there is a network, `hf download "
            f"{WORDS} {VOCABULARY} --local-dir FOLDER` fetches it; put {FILE} there too, and name FOLDER."
        ) from error


def _assembled(weights: Mapping[str, Tensor], words: Path, *, name: str) -> RewardModel:
    """The model of published weights; all sizes are theirs.

    Raises:
        ModelError: weights of something else.
    """
    from transformers import BertTokenizer, BlipTextModel, BlipVisionModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    own = {key: tensor.float() for key, tensor in weights.items() if key.startswith((VISION, TEXT, HEAD))}
    lacking = [key for key in (f"{VISION}pos_embed", f"{TEXT}embeddings.word_embeddings.weight") if key not in own]
    if lacking:
        raise ModelError(f"the weights have no {', '.join(lacking)}: they are not ImageReward's")
    vision_config, text_config = _configs(own)
    vision = BlipVisionModel(vision_config)
    text = BlipTextModel(text_config, add_pooling_layer=False)
    seen = {_renamed(key.removeprefix(VISION)): t for key, t in own.items() if key.startswith(VISION)}
    read = {key.removeprefix(TEXT): t for key, t in own.items() if key.startswith(TEXT)}
    read.pop("embeddings.position_ids", None)  # of older versions of the library, which count
    head = _head({key.removeprefix(HEAD): t for key, t in own.items() if key.startswith(HEAD)})
    for module, tensors in ((vision, seen), (text, read)):
        check_shapes(tensors, module.state_dict(), source="ImageReward")
        module.load_state_dict(tensors)
    side = vision_config.image_size
    return RewardModel(
        vision=vision.eval().requires_grad_(False),
        text=text.eval().requires_grad_(False),
        head=head,
        images=CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=BertTokenizer.from_pretrained(words, local_files_only=True),
        name=name,
    )


def _configs(weights: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """Of both networks, by the shapes of their weights: BLIP's own constants, and sizes."""
    from transformers import BlipTextConfig, BlipVisionConfig

    num_positions, width = weights[f"{VISION}pos_embed"].shape[1:]
    patch = weights[f"{VISION}patch_embed.proj.weight"].shape[-1]
    vision = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(weights[f"{VISION}blocks.0.mlp.fc1.weight"]),
        num_hidden_layers=_num_layers(weights, f"{VISION}blocks."),
        num_attention_heads=width // HEAD_DIM,
        image_size=math.isqrt(num_positions - 1) * patch,
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )
    num_words, text_width = weights[f"{TEXT}embeddings.word_embeddings.weight"].shape
    text = BlipTextConfig(
        vocab_size=num_words,
        hidden_size=text_width,
        encoder_hidden_size=width,
        intermediate_size=len(weights[f"{TEXT}encoder.layer.0.intermediate.dense.weight"]),
        num_hidden_layers=_num_layers(weights, f"{TEXT}encoder.layer."),
        num_attention_heads=text_width // HEAD_DIM,
        max_position_embeddings=len(weights[f"{TEXT}embeddings.position_embeddings.weight"]),
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        is_decoder=True,  # so that its layers have an attention to patches; nothing else comes of it
    )
    return vision, text


def _num_layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in weights if key.startswith(prefix))


def _renamed(name: str) -> str:
    """What transformers calls a weight of BLIP's vision network."""
    for pattern, ours in RENAMED:
        name, found = re.subn(pattern, ours, name)
        if found:
            return name
    return name


def _head(weights: dict[str, Tensor]) -> nn.Sequential:
    """The head's linear layers, one after another.

    Raises:
        ModelError: it is not ImageReward's.
    """
    wanted = {f"{number}.{part}" for number in LAYERS for part in ("weight", "bias")}
    if set(weights) != wanted:
        there = ", ".join(sorted(weights)) or "none"
        raise ModelError(f"ImageReward's head is {', '.join(sorted(wanted))}; the weights have {there}")
    head = nn.Sequential(*(nn.Linear(*weights[f"{number}.weight"].shape[::-1]) for number in LAYERS))
    head.load_state_dict(
        {f"{at}.{part}": weights[f"{n}.{part}"] for at, n in enumerate(LAYERS) for part in ("weight", "bias")}
    )
    return head.eval().requires_grad_(False)


METRIC = judged_metric("image-reward", Judgement(load, IMAGE_REWARD))
