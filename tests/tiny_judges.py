"""Models of random weights that judge pictures by prompts, of the published classes, in folders as the hub has them."""

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_models import PARITY
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor

SEED = 3
SIZE_PX = 28
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "red", "and", "dog", "under", "tree")
"""BERT's special tokens, and words."""
CHAT = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""The form of LLaVA-1.5's conversations."""


def save_clip(folder: Path) -> Path:
    """A CLIPModel whose tokenizer knows a few words; vectors of 12, pictures of 28x28."""
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(PARITY / "e2e_flux" / "pipeline" / "tokenizer")
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config=TINY | special | {"vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config=TINY | {"image_size": SIZE_PX, "patch_size": 14},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    clip_processor().save_pretrained(folder)
    return folder


def clip_processor() -> CLIPImageProcessorPil:
    """Of squares of 28x28."""
    return CLIPImageProcessorPil(size={"shortest_edge": SIZE_PX}, crop_size={"height": SIZE_PX, "width": SIZE_PX})


def save_llava(folder: Path, *, template: str | None = CHAT) -> Path:
    """A LLaVA that reads letters, and "Yes" as one token, after a picture of 4 patches."""
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(PARITY / "e2e_qwen" / "pipeline" / "tokenizer")
    tokenizer.add_tokens(["<image>", "Yes"], special_tokens=True)
    config = LlavaConfig(
        vision_config=TINY | {"model_type": "clip_vision_model", "image_size": SIZE_PX, "patch_size": 14},
        text_config=TINY | {"model_type": "llama", "vocab_size": len(tokenizer), "num_key_value_heads": 2},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=clip_processor(),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return folder


QWEN2_VL = {
    "model_type": "qwen2_vl",
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    "tie_word_embeddings": False,
    "vision_config": {
        "depth": 1,
        "embed_dim": 16,
        "hidden_size": 16,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
"""A config.json in the form of Qwen2-VL's, whose text model lies flat in it."""
SPARE = 20
"""Rows of the base's embedding that its tokenizer has no token for."""


def save_qwen2_vl(folder: Path) -> Path:
    """What HPSv3 takes of its base: configuration, tokenizer, and how pictures are prepared; no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(PARITY / "e2e_qwen" / "pipeline" / "tokenizer")
    tokenizer.save_pretrained(folder)
    token = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    ids = {key: tokenizer.convert_tokens_to_ids(text) for key, text in token.items()}
    ids |= {"bos_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.pad_token_id}
    config = QWEN2_VL | ids | {"vocab_size": len(tokenizer) + SPARE}
    (folder / "config.json").write_text(json.dumps(config))
    Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 16384).save_pretrained(folder)
    return folder


def save_hpsv3(folder: Path, base: Path) -> Path:
    """HPSv3.safetensors alone, by the names it was published with: one row a token and one for the reward's."""
    torch.manual_seed(SEED)
    config = AutoConfig.from_pretrained(base)
    config.text_config.vocab_size -= SPARE - 1
    network = Qwen2VLForConditionalGeneration(config)
    head = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Dropout(0.05), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))
    weights = dict(network.state_dict()) | head.state_dict(prefix="rm_head.")
    weights = {name: torch.randn_like(tensor) * 0.3 for name, tensor in weights.items()}
    published = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor.contiguous()
        for name, tensor in weights.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(published, folder / "HPSv3.safetensors")
    return folder


def save_image_reward(folder: Path, *, width: int = 128, text_width: int = 64, side_px: int = 32) -> Path:
    """ImageReward.pt by the names and shapes of its code, with heads of 64, and a vocabulary of a few words."""
    generator = torch.Generator().manual_seed(SEED)
    shapes: dict[str, tuple[int, ...]] = {
        "visual_encoder.cls_token": (1, 1, width),
        "visual_encoder.pos_embed": (1, 1 + (side_px // 16) ** 2, width),
        "visual_encoder.patch_embed.proj.weight": (width, 3, 16, 16),
        "visual_encoder.patch_embed.proj.bias": (width,),
        "text_encoder.embeddings.word_embeddings.weight": (len(WORDS) + 2, text_width),
        "text_encoder.embeddings.position_embeddings.weight": (40, text_width),
        "vision_proj.weight": (8, width),
    }

    def linear(name: str, rows: int, columns: int) -> None:
        shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})

    def norm(name: str, size: int) -> None:
        shapes.update({f"{name}.weight": (size,), f"{name}.bias": (size,)})

    norm("visual_encoder.norm", width)
    norm("text_encoder.embeddings.LayerNorm", text_width)
    for layer in (0, 1):
        block = f"visual_encoder.blocks.{layer}"
        norm(f"{block}.norm1", width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        linear(f"{block}.mlp.fc1", 48, width)
        linear(f"{block}.mlp.fc2", width, 48)
        block = f"text_encoder.encoder.layer.{layer}"
        for attention, seen in (("attention", text_width), ("crossattention", width)):
            linear(f"{block}.{attention}.self.query", text_width, text_width)
            linear(f"{block}.{attention}.self.key", text_width, seen)
            linear(f"{block}.{attention}.self.value", text_width, seen)
            linear(f"{block}.{attention}.output.dense", text_width, text_width)
            norm(f"{block}.{attention}.output.LayerNorm", text_width)
        linear(f"{block}.intermediate.dense", 40, text_width)
        linear(f"{block}.output.dense", text_width, 40)
        norm(f"{block}.output.LayerNorm", text_width)
    shapes = {f"blip.{name}": shape for name, shape in shapes.items()}
    sizes = (text_width, 24, 16, 8, 4, 1)
    for number, (columns, rows) in zip((0, 2, 4, 6, 7), pairwise(sizes), strict=True):
        linear(f"mlp.layers.{number}", rows, columns)
    weights = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder
