"""Diffusers pipelines of random weights, one of each family without published fixtures, written into a folder.

They are ordinary folders of the families' own classes, small enough to be made where they are needed; tokenizers know a
few words.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import nn
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from piflow_cli.teachers.flux2.family import Flux2
from piflow_cli.teachers.sd3 import SD3
from piflow_cli.teachers.wan.family import Wan
from piflow_cli.teachers.z_image import ZImage

PARITY = Path(__file__).parent / "fixtures" / "parity"
WORDS = PARITY / "e2e_flux" / "pipeline"
"""Whose tokenizers are used: tokenizer is CLIP's, tokenizer_2 is T5's."""
CHATS = PARITY / "e2e_qwen" / "pipeline" / "tokenizer"
"""A byte-level tokenizer of a few merges."""
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}\n{% endfor %}"
)
SIZE = {"width": 48, "height": 64}


def randomised(module: nn.Module, *, seed: int, std: float = 0.1) -> nn.Module:
    """Every parameter drawn anew, biases and norms too: nothing is zero or one by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module.eval()


def tiny_autoencoder(*, latent_channels: int, seed: int = 7) -> AutoencoderKL:
    """An autoencoder that makes latents of an eighth of the sides, with a scale and a shift."""
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=latent_channels,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return randomised(vae, seed=seed, std=0.2)


def clip(width: int, *, seed: int) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=525,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=width,
        bos_token_id=523,
        eos_token_id=524,
        pad_token_id=524,
    )
    return randomised(CLIPTextModelWithProjection(config), seed=seed)


def t5(width: int, *, seed: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=108, d_model=width, d_ff=24, d_kv=8, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return randomised(T5EncoderModel(config), seed=seed, std=0.3)


def tiny_sd3(folder: Path, **settings: Any) -> SD3:
    """Stable Diffusion 3.5: two CLIP encoders of widths 8 and 12, T5 of 24, 4 latent channels."""
    if not folder.exists():
        transformer = SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=24,
            caption_projection_dim=32,
            pooled_projection_dim=20,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        StableDiffusion3Pipeline(
            transformer=randomised(transformer, seed=1),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny_autoencoder(latent_channels=4),
            text_encoder=clip(8, seed=2),
            tokenizer=AutoTokenizer.from_pretrained(WORDS / "tokenizer"),
            text_encoder_2=clip(12, seed=3),
            tokenizer_2=AutoTokenizer.from_pretrained(WORDS / "tokenizer"),
            text_encoder_3=t5(24, seed=4),
            tokenizer_3=AutoTokenizer.from_pretrained(WORDS / "tokenizer_2"),
        ).save_pretrained(folder)
    return SD3(**{"source": str(folder), "max_sequence_length": 12} | SIZE | settings)


def chat_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(CHATS)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def language_model(width: int, *, num_layers: int) -> dict[str, int]:
    """The keys of a config as Qwen3 and Mistral have them."""
    return {
        "vocab_size": 280,
        "hidden_size": width,
        "intermediate_size": 16,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }


def tiny_z_image(folder: Path, **settings: Any) -> ZImage:
    """Z-Image: a language model of width 24, 4 latent channels, positions up to 64 captions and 32 rows."""
    if not folder.exists():
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=24,
            axes_dims=[4, 6, 6],
            axes_lens=[128, 32, 32],
        )
        encoder = Qwen3Model(Qwen3Config(**language_model(24, num_layers=3)))
        ZImagePipeline(
            transformer=randomised(transformer, seed=1),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
            vae=tiny_autoencoder(latent_channels=4),
            text_encoder=randomised(encoder, seed=2),
            tokenizer=chat_tokenizer(),
        ).save_pretrained(folder)
    return ZImage(**{"source": str(folder), "max_sequence_length": 24} | SIZE | settings)


def flux2_parts(*, guidance_embeds: bool) -> dict[str, Any]:
    """What klein and dev share: 4 latent channels, statistics of the autoencoder that show where they are forgotten."""
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4, sample_size=64, layers_per_block=1
    )
    generator = torch.Generator().manual_seed(8)
    vae.bn.running_mean.copy_(torch.randn(16, generator=generator))
    vae.bn.running_var.copy_(torch.rand(16, generator=generator) + 0.5)
    return {
        "transformer": randomised(transformer, seed=1),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "vae": randomised(vae, seed=7, std=0.2),
        "tokenizer": chat_tokenizer(),
    }


def tiny_flux2(folder: Path, **settings: Any) -> Flux2:
    """FLUX.2 klein base: a Qwen3 of as many layers as hidden states are taken from."""
    if not folder.exists():
        encoder = Qwen3ForCausalLM(Qwen3Config(**language_model(8, num_layers=28)))
        parts = flux2_parts(guidance_embeds=False)
        Flux2KleinPipeline(**parts, text_encoder=randomised(encoder, seed=2, std=0.3)).save_pretrained(folder)
    return Flux2(**{"source": str(folder), "max_sequence_length": 40} | SIZE | settings)


def tiny_flux2_dev(folder: Path, **settings: Any) -> Flux2:
    """FLUX.2 dev: a Mistral 3, and a tokenizer that its index calls a processor, as the published one's does."""
    if not folder.exists():
        vision = {
            "model_type": "pixtral",
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 4,
            "image_size": 28,
            "patch_size": 14,
        }
        text = MistralConfig(**language_model(8, num_layers=31), sliding_window=None)
        encoder = Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision))
        parts = flux2_parts(guidance_embeds=True)
        Flux2Pipeline(**parts, text_encoder=randomised(encoder, seed=3, std=0.3)).save_pretrained(folder)
        index = json.loads((folder / "model_index.json").read_text())
        index["tokenizer"] = ["transformers", "PixtralProcessor"]
        (folder / "model_index.json").write_text(json.dumps(index))
    return Flux2(**{"source": str(folder), "max_sequence_length": 320} | SIZE | settings)


def tiny_wan(folder: Path, *, expand_timesteps: bool = False, **settings: Any) -> Wan:
    """Wan 2.1, or 2.2 TI2V with `expand_timesteps`: UMT5 of width 24, 4 latent channels, its usual scheduler."""
    if not folder.exists():
        transformer = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            text_dim=24,
            freq_dim=16,
            ffn_dim=48,
            num_layers=2,
            rope_max_seq_len=32,
        )
        vae = AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            num_res_blocks=1,
            latents_mean=[-0.7, 0.4, 0.1, -0.2],
            latents_std=[1.8, 0.7, 1.2, 2.1],
        )
        encoder = UMT5Config(
            vocab_size=108, d_model=24, d_ff=24, d_kv=8, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
        )
        WanPipeline(
            transformer=randomised(transformer, seed=1, std=0.2),
            scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
            vae=randomised(vae, seed=7, std=0.2),
            text_encoder=randomised(UMT5EncoderModel(encoder), seed=4, std=0.3),
            tokenizer=AutoTokenizer.from_pretrained(WORDS / "tokenizer_2"),
            expand_timesteps=expand_timesteps,
        ).save_pretrained(folder)
    return Wan(**{"source": str(folder), "max_sequence_length": 12, "frames": 5} | SIZE | settings)
