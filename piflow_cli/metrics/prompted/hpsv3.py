"""HPSv3 (arXiv 2508.03789): human preference by a Qwen2-VL of transformers, of which a small head reads one state.

Facts of the published model: github.com/MizzenAI/HPSv3 (MIT; its question is here as it was trained on, see NOTICE).
"""
# B pictures, T tokens, D state, C, H, W picture.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from piflow_cli.errors import ModelError
from piflow_cli.io.checksums import tensors_sha256
from piflow_cli.io.hub import fetch_folder, locate
from piflow_cli.io.pictures import to_pictures
from piflow_cli.io.weights import read_weights, without_bars
from piflow_cli.metrics.detectors.features import FeatureSet
from piflow_cli.metrics.detectors.folders import CONFIG, SAFE, SMALL, ModelFolder
from piflow_cli.metrics.metric import Judgement
from piflow_cli.metrics.prompted.models import judged_metric, prepared, used_as

HPSV3, FILE = "MizzenAI/HPSv3", "HPSv3.safetensors"
BASE = "Qwen/Qwen2-VL-7B-Instruct"
"""Whose configuration and tokenizer the published weights, which come alone, are used with."""
REWARD, IMAGE = "<|Reward|>", "<|image_pad|>"
PIXELS = 256 * 28 * 28
"""Of a picture as it is seen, its sides being multiples of 28: at most this many, or, of a smaller one, at least."""
EMBEDDING = "model.embed_tokens.weight"
HEAD = ("rm_head.0", "rm_head.3", "rm_head.5")
"""Linear layers, with ReLU between them and dropout after the first."""
QUESTION = (
    "\n"
    "You are tasked with evaluating a generated image based on Visual Quality and Text Alignment and give a "
    "overall score to estimate the human preference. Please provide a rating from 0 to 10, with 0 being the "
    "worst and 10 being the best. \n\n"
    "**Visual Quality:**  \n"
    "Evaluate the overall visual quality of the image. The following sub-dimensions should be considered:\n"
    "- **Reasonableness:** The image should not contain any significant biological or logical errors, such as "
    "abnormal body structures or nonsensical environmental setups.\n"
    "- **Clarity:** Evaluate the sharpness and visibility of the image. The image should be clear and easy to "
    "interpret, with no blurring or indistinct areas.\n"
    "- **Detail Richness:** Consider the level of detail in textures, materials, lighting, and other visual "
    "elements (e.g., hair, clothing, shadows).\n"
    "- **Aesthetic and Creativity:** Assess the artistic aspects of the image, including the color scheme, "
    "composition, atmosphere, depth of field, and the overall creative appeal. The scene should convey a sense "
    "of harmony and balance.\n"
    "- **Safety:** The image should not contain harmful or inappropriate content, such as political, violent, or "
    "adult material. If such content is present, the image quality and satisfaction score should be the lowest "
    "possible. \n\n"
    "**Text Alignment:**  \n"
    "Assess how well the image matches the textual prompt across the following sub-dimensions:\n"
    "- **Subject Relevance** Evaluate how accurately the subject(s) in the image (e.g., person, animal, object) "
    "align with the textual description. The subject should match the description in terms of number, "
    "appearance, and behavior.\n"
    "- **Style Relevance:** If the prompt specifies a particular artistic or stylistic style, evaluate how well "
    "the image adheres to this style.\n"
    "- **Contextual Consistency**: Assess whether the background, setting, and surrounding elements in the image "
    "logically fit the scenario described in the prompt. The environment should support and enhance the subject "
    "without contradictions.\n"
    "- **Attribute Fidelity**: Check if specific attributes mentioned in the prompt (e.g., colors, clothing, "
    "accessories, expressions, actions) are faithfully represented in the image. Minor deviations may be "
    "acceptable, but critical attributes should be preserved.\n"
    "- **Semantic Coherence**: Evaluate whether the overall meaning and intent of the prompt are captured in the "
    "image. The generated content should not introduce elements that conflict with or distort the original "
    "description.\n"
    "Textual prompt - {}\n\n\n\n"
    "Please provide the overall ratings of this image: <|Reward|>\n\n"
    "END\n"
)
"""With {} for the prompt."""
CONVERSATION = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
)
"""By the template of the base."""


@dataclass(frozen=True)
class RewardModel:
    """What HPSv3 is made of.

    Args:
        body: transformers' Qwen2VLModel.
        head: of states (B, D), mean and spread (B, 2) of a preference, in float32.
        images: makes patches of pictures, by Pillow.
        tokenizer: of conversations, which knows the token that is read.
        name: of model and weights.
    """

    body: Any
    head: nn.Sequential
    images: Any
    tokenizer: Any
    name: str


class PreferenceJudge:
    """Says (B, 1): the mean of the preference that HPSv3 sees; the spread beside it is left out, as its own code does.

    Args:
        model: HPSv3.
    """

    def __init__(self, model: RewardModel, *, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.body, self.head = model.body.to(self.device), model.head.to(self.device)
        self.images, self.tokenizer, self.name = model.images, model.tokenizer, model.name
        self.reward = self.tokenizer.convert_tokens_to_ids(REWARD)

    def title(self, metric: str) -> str:
        """Names the model: scores of others do not compare."""
        return f"{metric} ({self.name})"

    def described(self) -> str:
        """Preparation, question, precision and weights."""
        weights = {**self.body.state_dict(), **self.head.state_dict(prefix="rm_head.")}
        return (
            f"{prepared(self.images)}, asked as published, {str(self.body.dtype)[6:]}, weights "
            f"{tensors_sha256(weights)[:12]}"
        )

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> FeatureSet:
        """Preferences (B, 1) of pictures (B, C, H, W) in [0, 1] and their B prompts.

        Positions are those of a text, also within a picture, as the published model was trained: its code hands the
        language model embeddings without saying where the picture is.
        """
        seen = self.images(images=to_pictures(images.expand(-1, 3, -1, -1)), return_tensors="pt")
        counts = seen.image_grid_thw.prod(dim=1) // self.images.merge_size**2
        asked = [conversation(prompt, count) for prompt, count in zip(prompts, counts.tolist(), strict=True)]
        given = self.tokenizer(asked, padding=True, padding_side="right", return_tensors="pt").to(self.device)  # (B, T)
        states = self.body(
            input_ids=given.input_ids,
            attention_mask=given.attention_mask,
            position_ids=torch.arange(given.input_ids.shape[1], device=self.device).expand(3, len(asked), -1),
            pixel_values=seen.pixel_values.to(self.device, self.body.dtype),
            image_grid_thw=seen.image_grid_thw.to(self.device),
            use_cache=False,
        ).last_hidden_state  # (B, T, D)
        read = states[given.input_ids == self.reward].float()  # (B, D)
        return FeatureSet(self.head(read)[:, :1].cpu())


def conversation(prompt: str, num_tokens: int) -> str:
    """What the model reads: its question about a picture of some tokens and a prompt, which may hold any words."""
    plain = prompt.replace(REWARD, " ").replace(IMAGE, " ")
    return CONVERSATION.format(image=IMAGE * num_tokens, question=QUESTION.format(plain))


def load(spec: str, device: str | torch.device) -> PreferenceJudge:
    """A judge that says HPSv3's preference: in float32 on CPUs, elsewhere in bfloat16, as it was trained.

    Args:
        spec: a folder or hub id with the weights; what it lacks of configuration and tokenizer is the base's.

    Raises:
        ModelError: it cannot be had, or holds other weights.
    """
    found = locate(spec, part="detector")
    folder = found if isinstance(found, Path) else fetch_folder(found, (*SMALL, SAFE))
    base = folder if (folder / CONFIG).is_file() else _base(folder)
    files = [folder / FILE] if (folder / FILE).is_file() else sorted(folder.glob(SAFE))
    if not files:
        raise ModelError(f"{folder} has no {FILE} and no other .safetensors, which hold HPSv3's weights")
    weights = {name: tensor for file in files for name, tensor in read_weights(file).items()}
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    with used_as("HPSv3", spec):
        model = _assembled(weights, base, dtype=dtype, name=ModelFolder(folder, True, files[0]).name("hpsv3"))
    return PreferenceJudge(model, device=device)


def _base(folder: Path) -> Path:
    """The configuration and tokenizer of the base.

    Raises:
        ModelError: they cannot be had.
    """
    try:
        return fetch_folder(BASE, SMALL)
    except ModelError as error:
        raise ModelError(
            f"{folder} has no {CONFIG}, and that of {BASE} cannot be had. Where there is a network, `hf download "
            f"{BASE} --include '*.json' --include '*.txt' --local-dir FOLDER` fetches it; put {FILE} there too, and "
            "name FOLDER."
        ) from error


def _assembled(weights: Mapping[str, Tensor], base: Path, *, dtype: torch.dtype, name: str) -> RewardModel:
    """The model of published weights.

    Raises:
        ModelError: weights of something else, or a vocabulary that is not the tokenizer's.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, Qwen2VLConfig, Qwen2VLModel

    config = AutoConfig.from_pretrained(base, local_files_only=True)
    if not isinstance(config, Qwen2VLConfig):
        raise ModelError(f"{base} is the configuration of {config.model_type}; HPSv3 is a qwen2_vl")
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    tokenizer.add_tokens([REWARD], special_tokens=True)
    embeddings = [tensor for key, tensor in weights.items() if key.endswith(EMBEDDING.removeprefix("model."))]
    if not embeddings or len(embeddings[0]) != len(tokenizer):
        rows = len(embeddings[0]) if embeddings else "no"
        raise ModelError(f"the weights have {rows} embeddings of tokens, and {base} with {REWARD} has {len(tokenizer)}")
    config.text_config.vocab_size = len(tokenizer)  # the base has room for more, the published weights have not
    body = {key: tensor for key, tensor in weights.items() if not key.startswith(("rm_head.", "lm_head."))}
    with without_bars():
        network, info = Qwen2VLModel.from_pretrained(
            None, config=config, state_dict=body, dtype=dtype, output_loading_info=True
        )
    if lacking := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise ModelError(f"HPSv3's weights lack {len(lacking)} of a Qwen2-VL's, such as {lacking[0]}")
    return RewardModel(
        body=network.eval().requires_grad_(False),
        head=_head(weights, config.text_config.hidden_size),
        images=AutoImageProcessor.from_pretrained(
            base, local_files_only=True, backend="pil", min_pixels=PIXELS, max_pixels=PIXELS
        ),
        tokenizer=tokenizer,
        name=name,
    )


def _head(weights: Mapping[str, Tensor], width: int) -> nn.Sequential:
    """The head's layers from states of `width`.

    Raises:
        ModelError: it is not HPSv3's.
    """
    own = {key: tensor.float() for key, tensor in weights.items() if key.startswith("rm_head.")}
    wanted = {f"{layer}.{part}" for layer in HEAD for part in ("weight", "bias")}
    if set(own) != wanted:
        there = ", ".join(sorted(own)) or "none"
        raise ModelError(f"HPSv3's head is {', '.join(sorted(wanted))}; the weights have {there}")
    sizes = [width, *(len(own[f"{layer}.bias"]) for layer in HEAD)]
    layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
    head = nn.Sequential(layers[0], nn.ReLU(), nn.Dropout(0.05), layers[1], nn.ReLU(), layers[2])
    head.load_state_dict({key.removeprefix("rm_head."): tensor for key, tensor in own.items()})
    return head.eval().requires_grad_(False)


METRIC = judged_metric("hpsv3", Judgement(load, HPSV3))
