"""Weight files of the code that DiT was published with, whose layout SiT and REPA keep, and SiT's time and sign.

SiT (arXiv 2401.08740) has noise at t = 0 and data at t = 1 and predicts data - noise; REPA (arXiv 2410.06940) has both
the way of this project. Sign and direction are linear in weights: a network that is loaded here is like any other.

Shapes: D network width, N positions, F frequencies of time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from piflow_cli.errors import ModelError
from piflow_cli.io.tensors.slices import SlicedWeights

REVERSED = "reversed-flow"
"""The `prediction` of a network whose velocity is data - noise at the time 1 - sigma."""
PATCHES = "x_embedder.proj.weight"
"""A tensor by which the layout is known."""
POSITIONS = "pos_embed"
EMBEDDING = "transformer_blocks.0.norm1.emb."
NAMES = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": EMBEDDING + "timestep_embedder.linear_1",
    "t_embedder.mlp.2": EMBEDDING + "timestep_embedder.linear_2",
    "y_embedder.embedding_table": EMBEDDING + "class_embedder.embedding_table",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
BLOCK_NAMES = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
QKV, PARTS = "attn.qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v")
TRAINING_ONLY = ("projectors.",)
"""Of REPA: what aligned its features while it was trained."""
OTHERS = {"mlp.w12": "gated MLPs", "attn.q_norm": "normalised queries and keys", "feat_rope": "rotary positions"}
"""What networks of similar names have in their blocks, and a DiT has not; LightningDiT (arXiv 2501.01423) is one."""
LAYER_NORM_EPS = 1e-6
"""Of the code; diffusers' DiT takes 1e-5 for one of its norms unless a config says otherwise."""
MAX_PERIOD = 10_000
TABLE_TOLERANCE = 1e-3


def is_original(names: Collection[str]) -> bool:
    """Whether tensors have the names of the original code."""
    return PATCHES in names


def from_original(weights: Mapping[str, Tensor], *, source: object) -> dict[str, Tensor]:
    """Weights by the names of diffusers' DiT, of those of the original code; unknown names stay.

    Raises:
        ModelError: a network that is no DiT, or positions that are not sines and cosines.
    """
    for part, what in OTHERS.items():
        if found := next((name for name in weights if part in name), None):
            raise ModelError(
                f"{source} is no DiT, though its tensors are named alike: it has {what} ({found}), which diffusers' "
                "DiTTransformer2DModel has not. LightningDiT is such a network, and cannot be read"
            )
    converted: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name == POSITIONS:
            _check_positions(tensor, source)
        elif not name.startswith(TRAINING_ONLY):
            converted |= _renamed(name, tensor)
    return converted


def _renamed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor by its new name; queries, keys and values by one each."""
    module, _, kind = name.rpartition(".")
    if module in NAMES:
        return {f"{NAMES[module]}.{kind}": tensor}
    first, _, rest = module.partition(".")
    number, _, part = rest.partition(".")
    if first != "blocks":
        return {name: tensor}
    block = f"transformer_blocks.{number}"
    if part == QKV and len(tensor) % len(PARTS) == 0:
        return {f"{block}.{own}.{kind}": rows for own, rows in zip(PARTS, tensor.chunk(len(PARTS)), strict=True)}
    return {f"{block}.{BLOCK_NAMES.get(part, part)}.{kind}": tensor}


def side_of(weights: Mapping[str, Tensor]) -> int | None:
    """Patches along a side of the latents that a network was trained on, by its table of positions, if it has one."""
    table = weights.get(POSITIONS)
    return math.isqrt(table.shape[1]) if table is not None and table.ndim == 3 else None


def _check_positions(table: Tensor, source: object) -> None:
    """Raise ModelError for a table (1, N, D) that is not the one that diffusers computes."""
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    side = math.isqrt(table.shape[1]) if table.ndim == 3 else 0
    if side == 0 or side**2 != table.shape[1] or table.shape[2] % 4:
        raise ModelError(f"{source} has a {POSITIONS} of shape {tuple(table.shape)}, which is of no square picture")
    expected = get_2d_sincos_pos_embed(table.shape[2], side, base_size=side, output_type="pt")
    if not torch.allclose(table[0].double(), expected.double(), atol=TABLE_TOLERANCE):
        raise ModelError(
            f"{source} has positions of its own ({POSITIONS}), and not the sines and cosines that diffusers' "
            "DiTTransformer2DModel computes; it cannot be read"
        )


def as_flow(weights: Mapping[str, Tensor], *, timestep_scale: float, freq_shift: float) -> dict[str, Tensor]:
    """Weights of a reversed flow's network as those of one that gives noise - data and takes timestep_scale * sigma.

    The cosines and sines of s (1 - sigma) f are those of s sigma f, turned by the angles s f, which the first layer
    behind them takes on; the last layer is negated.

    Args:
        weights: by diffusers' names.
        timestep_scale: s, by which the network's own time is t s.
        freq_shift: of the frequencies f.
    """
    changed = dict(weights)
    for name, tensor in weights.items():
        if name.startswith("proj_out_2."):
            changed[name] = -tensor
        elif name.endswith("timestep_embedder.linear_1.weight"):
            cosines, sines = tensor.double().chunk(2, dim=1)  # (D, F) both
            count = cosines.shape[1]
            steps = torch.arange(count, dtype=torch.float64) / (count - freq_shift)
            angles = timestep_scale * torch.exp(-math.log(MAX_PERIOD) * steps)
            turned = (cosines * angles.cos() + sines * angles.sin(), cosines * angles.sin() - sines * angles.cos())
            changed[name] = torch.cat(turned, dim=1).to(torch.promote_types(tensor.dtype, torch.float32))
    return changed


class HeldWeights(SlicedWeights):
    """Tensors in memory in the place of those of files, which hold them otherwise.

    Args:
        paths: the files, for messages.
        tensors: by the module's names.
    """

    def __init__(self, paths: Sequence[Path], tensors: dict[str, Tensor]) -> None:
        super().__init__(())
        self.paths, self._tensors = list(paths), tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        """The tensors that are there."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self.read(name).shape)

    def read(self, name: str, where: tuple[slice, ...] | None = None) -> Tensor:
        """A tensor, or a part of it."""
        if name not in self._tensors:
            self._place(name)  # which says that it is not there
        tensor = self._tensors[name]
        return tensor if where is None else tensor[where].clone()

    def close(self) -> None:
        """Let go of the tensors."""
        self._tensors.clear()
