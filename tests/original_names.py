"""Weights of tiny transformers under the names, and in the pieces, that their models were published in."""

import re
from collections.abc import Callable

import torch
from torch import Tensor

Weights = dict[str, Tensor]
WAN = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "attn1": "self_attn",
    "attn2": "cross_attn",
    ".to_out.0.": ".o.",
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",
    "proj_out": "head.head",
    "scale_shift_table": "modulation",
}
Z_IMAGE = {
    "all_final_layer.2-1.": "final_layer.",
    "all_x_embedder.2-1.": "x_embedder.",
    ".to_out.0.": ".out.",
    ".norm_q.": ".q_norm.",
    ".norm_k.": ".k_norm.",
}
SD3 = {
    "pos_embed.proj.": "x_embedder.proj.",
    "pos_embed.pos_embed": "pos_embed",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
SD3_BLOCK = {
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.to_add_out": "context_block.attn.proj",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn.to_out.0": "x_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
}


def renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name


def wan(weights: Weights) -> Weights:
    """Wan: renamed alone; the table of the end is the head's."""
    found = {renamed(name, WAN): tensor for name, tensor in weights.items()}
    found["head.modulation"] = found.pop("modulation")
    return found


def fused(weights: Weights, parts: tuple[str, ...], whole: str) -> Weights:
    """Weights with layers that are called `parts` put into one, in their order, called `whole`."""
    left = dict(weights)
    for name in weights:
        if f".{parts[0]}." in name:
            pieces = [left.pop(name.replace(f".{parts[0]}.", f".{part}.")) for part in parts]
            left[name.replace(f".{parts[0]}.", f".{whole}.")] = torch.cat(pieces)
    return left


def z_image(weights: Weights) -> Weights:
    """Z-Image: query, key and value are one layer."""
    whole = fused(weights, ("to_q", "to_k", "to_v"), "qkv")
    return {renamed(name, Z_IMAGE): tensor for name, tensor in whole.items()}


def swapped(tensor: Tensor) -> Tensor:
    """The halves of a last modulation, shift and scale, in the other order."""
    return torch.cat(tensor.chunk(2)[::-1])


def sd3(weights: Weights) -> Weights:
    """Stable Diffusion 3.5: query, key and value are one layer; what modulates the ends is in another order."""
    whole = fused(weights, ("attn.to_q", "attn.to_k", "attn.to_v"), "x_block.attn.qkv")
    whole = fused(whole, ("attn2.to_q", "attn2.to_k", "attn2.to_v"), "x_block.attn2.qkv")
    whole = fused(whole, ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), "context_block.attn.qkv")
    last = max(int(name.split(".")[1]) for name in whole if name.startswith("transformer_blocks."))
    found = {}
    for name, tensor in whole.items():
        turned = name.startswith(("norm_out.", f"transformer_blocks.{last}.norm1_context."))
        block = re.match(r"transformer_blocks\.(\d+)\.(.+)\.(\w+)$", name)
        place = renamed(name, SD3)
        if block is not None:
            place = f"joint_blocks.{block[1]}.{SD3_BLOCK.get(block[2], block[2])}.{block[3]}"
        found[place] = swapped(tensor) if turned else tensor
    return found


ORIGINAL: dict[str, Callable[[Weights], Weights]] = {"sd3": sd3, "wan": wan, "z_image": z_image}
"""By families, some of whose original names are diffusers' too."""
