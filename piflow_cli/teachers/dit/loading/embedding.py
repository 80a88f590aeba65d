"""Whether a DiT's blocks share one time and class embedding, as the published ones do, or each has its own.

diffusers builds one into every block and so saves one for each. Where all hold the same values they are made one
module, so that weights, gradients and memory exist once; a network whose blocks differ keeps what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

EMBEDDING = ".norm1.emb."
FIRST = "transformer_blocks.0" + EMBEDDING
PER_BLOCK = "embedding_per_block"
"""Config key, true where blocks have embeddings of their own; absent where they share one."""


def differ(names: Collection[str], read: Callable[[str], Tensor]) -> bool:
    """Whether weights hold embeddings that are not all the first block's; small tensors are compared first.

    Args:
        names: of all tensors, by diffusers' names.
        read: a tensor by its name.
    """
    known = {name for name in names if name.startswith(FIRST)}
    others = [name for name in names if EMBEDDING in name and name not in known and _of_first(name) in known]
    others.sort(key=lambda name: (not name.endswith("bias"), name.endswith("embedding_table.weight")))
    return any(not torch.equal(read(name), read(_of_first(name))) for name in others)


def _of_first(name: str) -> str:
    """The same tensor of the first block."""
    return FIRST + name.split(EMBEDDING, 1)[1]


def copies(module: nn.Module, names: Collection[str]) -> set[str]:
    """Those of the names that are of an embedding which the module does not hold apart from the first block's."""
    held = dict(module.named_parameters())
    return {name for name in names if EMBEDDING in name and not name.startswith(FIRST) and name not in held}


def share(module: nn.Module) -> None:
    """Make every block use the first block's embedding."""
    first = module.transformer_blocks[0].norm1.emb
    for block in module.transformer_blocks[1:]:
        block.norm1.emb = first


def set_up(module: nn.Module, *, freq_shift: float) -> None:
    """Have embeddings never drop labels, which is the trainer's business, and compute frequencies as they learnt."""
    for block in module.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
        block.norm1.emb.time_proj.downscale_freq_shift = freq_shift
