"""A Qwen-Image-2.1 pipeline of random weights, written into a folder; its tokenizer knows a few words."""

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from tiny_bases import CHATS, language_model, randomised
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from piflow_cli.teachers.qwen_image_2 import QwenImage2
from piflow_cli.teachers.text.loading.processors import processor_of

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{{ part.text }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
)
"""That the pipeline's own prompts are filled into, so that it finds where its system part ends."""
VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 24,
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16,
}


def tiny_qwen_image_2(folder: Path, **settings: Any) -> QwenImage2:
    """Qwen-Image-2.1: a Qwen3-VL of width 24, 4 latent channels of which each has statistics of its own."""
    if not folder.exists():
        tokenizer = AutoTokenizer.from_pretrained(CHATS)
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(folder / "processor")
        transformer = QwenImage21Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            context_in_dim=24,
            axes_dims_rope=(4, 6, 6),
        )
        vae = AutoencoderKLQwenImage21(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.5, -0.5, 1.0, 0.25],
            latents_std=[2.0, 1.5, 0.5, 1.0],
        )
        text = language_model(24, num_layers=2) | {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
        }
        encoder = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=VISION))
        QwenImage21Pipeline(
            transformer=randomised(transformer, seed=1),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=randomised(vae, seed=7, std=0.2),
            text_encoder=randomised(encoder, seed=2, std=0.3),
            processor=processor_of(Qwen3VLProcessor, folder / "processor"),
        ).save_pretrained(folder)
    return QwenImage2(**{"source": str(folder), "width": 64, "height": 96, "max_sequence_length": 64} | settings)
