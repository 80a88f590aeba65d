"""How FLUX.2's transformer is called: tokens of the target and of reference pictures, positions in four axes.

Shapes: B batch, N image tokens, R tokens of reference pictures, T text tokens, C latent channels, H, W latent size,
D network width.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from piflow_cli.core.conditions import Sizes, TextCondition
from piflow_cli.teachers.text.tokens import TokenBackbone, block_targets, in_groups, pack, unpack

DOUBLE_TARGETS = ("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out")
SINGLE_TARGETS = ("attn.to_qkv_mlp_proj", "attn.to_out")
TIME_TARGETS = ("time_guidance_embed.timestep_embedder.linear_1", "time_guidance_embed.timestep_embedder.linear_2")
PATCH = 2
SIZES_KEPT = 16
"""Sizes whose position ids are kept on a device."""
TIME_SCALE = 1000
"""The network embeds 1000 sigma, and 1000 times the guidance scale."""


class Flux2Backbone(TokenBackbone):
    """How to call a Flux2Transformer2DModel, whatever its final projection is."""

    embedding_name = "time_guidance_embed"

    def predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Network output (B, channels, H, W) at x (B, C, H, W), sigma (B,)."""
        return in_groups(lambda *at: self._predict(module, *at), x, sigma, condition)

    def _predict(self, module: nn.Module, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        """The same where the reference pictures of all rows are of the same sizes."""
        height, width = x.shape[-2:]
        tokens = pack(x.to(module.dtype))  # (B, N, 4 C)
        num_own, ids = tokens.shape[1], _image_ids(height // PATCH, width // PATCH, x.device)
        if condition.references is not None:
            about, sizes = condition.references.of_one_layout()
            tokens = torch.cat([tokens, about.to(tokens)], dim=1)  # (B, N + R, 4 C)
            ids = torch.cat([ids, _reference_ids(sizes, x.device)])
        output = module(
            hidden_states=tokens,
            encoder_hidden_states=condition.embeds.to(module.dtype),
            timestep=sigma,
            guidance=condition.guidance,
            img_ids=ids,
            txt_ids=_text_ids(condition.embeds.shape[1], x.device),
            return_dict=False,
        )[0]
        return unpack(output[:, :num_own], height, width)

    def embed(self, module: nn.Module, sigma: Tensor, condition: TextCondition) -> Tensor:
        """Time and guidance embedding (B, D)."""
        guidance = condition.guidance
        if guidance is not None:
            guidance = guidance.to(module.dtype) * TIME_SCALE
        return module.time_guidance_embed(sigma.to(module.dtype) * TIME_SCALE, guidance)

    def lora_targets(self, module: nn.Module) -> list[str]:
        """Ours, after those of FLUX.1: all MLPs, which single blocks have in one layer with attention, and the time."""
        double = block_targets(module, "transformer_blocks", DOUBLE_TARGETS)
        return [*double, *block_targets(module, "single_transformer_blocks", SINGLE_TARGETS), *TIME_TARGETS]

    def to_call(self, noise: Tensor) -> Tensor:
        """Patches (B, 4 C, H/2, W/2) of noise (B, C, H, W)."""
        return patchify(noise)

    def from_base(self, given: Tensor, height: int, width: int) -> Tensor:
        """Latents of tokens (B, N, 4 C), or of patches (B, 4 C, H/2, W/2)."""
        return unpatchify(given) if given.ndim == 4 else unpack(given, height, width)


def patchify(x: Tensor) -> Tensor:
    """Patches (B, 4 C, H/2, W/2) of x (B, C, H, W), as the pipelines make them."""
    from diffusers import Flux2Pipeline

    return Flux2Pipeline._patchify_latents(x)


def unpatchify(patches: Tensor) -> Tensor:
    """The inverse: (B, C, H, W) of patches (B, 4 C, H/2, W/2)."""
    from diffusers import Flux2Pipeline

    return Flux2Pipeline._unpatchify_latents(patches)


@lru_cache(maxsize=SIZES_KEPT)
def _image_ids(rows: int, columns: int, device: torch.device) -> Tensor:
    """Position ids (N, 4) of frame, row, column and token, as the pipelines make them."""
    from diffusers import Flux2Pipeline

    with torch.inference_mode(False):  # kept for calls that record a graph
        return Flux2Pipeline._prepare_latent_ids(torch.empty(1, 1, rows, columns))[0].to(device)


@lru_cache(maxsize=SIZES_KEPT)
def _reference_ids(sizes: Sizes, device: torch.device) -> Tensor:
    """Position ids (R, 4) of reference pictures, each in a frame of its own, as the pipelines make them."""
    from diffusers import Flux2Pipeline

    if not sizes:
        return torch.empty(0, 4, dtype=torch.int64, device=device)
    with torch.inference_mode(False):
        pictures = [torch.empty(1, 1, rows, columns) for rows, columns in sizes]
        return Flux2Pipeline._prepare_image_ids(pictures)[0].to(device)


@lru_cache(maxsize=SIZES_KEPT)
def _text_ids(length: int, device: torch.device) -> Tensor:
    """Position ids (T, 4): text has its place in the sequence alone."""
    from diffusers import Flux2Pipeline

    with torch.inference_mode(False):
        return Flux2Pipeline._prepare_text_ids(torch.empty(1, length, 1))[0].to(device)
