"""Models of random weights that judge pictures by prompts, of the published classes, in folders as the hub has them."""

from pathlib import Path

import torch
from tiny_models import PARITY
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor

SEED = 3
SIZE_PX = 28
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
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
