"""Models of random weights that judge pictures by prompts, of the published classes, in folders as the hub has them."""

from pathlib import Path

import torch
from tiny_models import PARITY
from transformers import AutoTokenizer, CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SEED = 3
SIZE_PX = 28
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


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
    square = {"height": SIZE_PX, "width": SIZE_PX}
    CLIPImageProcessorPil(size={"shortest_edge": SIZE_PX}, crop_size=square).save_pretrained(folder)
    return folder
