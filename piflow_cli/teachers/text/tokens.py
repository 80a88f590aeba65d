"""What families of transformers share of how they are called, and latents as tokens of 2x2 patches, channels first.

Shapes: B batch, N tokens, C channels, H, W latent size, D width of the transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.errors import DataError


@dataclass(frozen=True)
class TextBackbone:
    """What is known of a transformer without calling it: a family's own says how it is called, and what differs.

    Args:
        latent_channels: C.
    """

    latent_channels: int

    projection_name = "proj_out"
    time_argument = "timestep"
    trained_modules = ("norm_out",)
    embedding_name = "time_text_embed"
    """The part of the module whose output `embed` returns."""
    layout = PatchLayout(sides=(2, 2), channels_last=False)
    size_step: ClassVar[tuple[int, int] | None] = None
    """Latent positions that height and width are multiples of; None is a patch."""

    calls_by_row: ClassVar[bool] = False
    """Whether `predict` calls the module once a row; processes that share its weights have to call equally often."""

    @classmethod
    def side_steps(cls) -> tuple[int, int]:
        """Latent positions that height and width are multiples of."""
        *_, down, across = cls.size_step or cls.layout.sides
        return down, across

    def embed_dim(self, module: nn.Module) -> int:
        """D, the width of the transformer."""
        return module.inner_dim

    def embedded(self, outputs: Sequence[Tensor]) -> Tensor:
        """What `embed` returns, of the outputs that its part of the module gave in one prediction."""
        return outputs[0]

    def projection(self, module: nn.Module) -> nn.Linear:
        """The final projection."""
        return plain_projection(module.get_submodule(self.projection_name), module.dtype)

    def replace_projection(self, module: nn.Module, head: nn.Module, *, output_channels: int) -> None:  # noqa: ARG002
        """Put a head in the place of the final projection; the module passes its tokens on, however wide."""
        module.set_submodule(self.projection_name, head)

    def to_base(self, x: Tensor) -> Tensor:
        """Latents or noise (B, C, H, W) as the base's own pipeline steps them, and shows them to callbacks."""
        return x

    def to_call(self, noise: Tensor) -> Tensor:
        """Noise (B, C, H, W) as the call of the base's own pipeline takes it."""
        return self.to_base(noise)

    def from_base(self, given: Tensor, height: int, width: int) -> Tensor:  # noqa: ARG002
        """The inverse of `to_base` and of `to_call`, for latents of height x width."""
        return given


BackboneClass = type[TextBackbone]
"""In settings, where `type` is a key."""


class TokenBackbone(TextBackbone):
    """A transformer over tokens, as those of FLUX.1 and Qwen-Image: a token holds a 2x2 patch, channels first."""

    def to_base(self, x: Tensor) -> Tensor:
        """Tokens (B, N, 4 C) of x (B, C, H, W)."""
        return pack(x)

    def from_base(self, given: Tensor, height: int, width: int) -> Tensor:
        """The inverse."""
        return unpack(given, height, width)


def in_groups(
    predict: Callable[[Tensor, Tensor, TextCondition], Tensor], x: Tensor, sigma: Tensor, condition: TextCondition
) -> Tensor:
    """What `predict` gives, (B, channels, H, W), called once for all rows with reference pictures of the same sizes.

    Networks have one layout of positions for a batch.

    Args:
        predict: (x (B, C, H, W), sigma (B,), condition) -> output (B, channels, H, W).
        x, sigma, condition: of any rows.
    """
    groups = condition.references.groups() if condition.references is not None else []
    if len(groups) <= 1:
        return predict(x, sigma, condition)
    index = [torch.tensor(rows, device=x.device) for rows in groups]
    outputs = torch.cat([predict(x[rows], sigma[rows], condition[rows]) for rows in index])
    return outputs[torch.cat(index).argsort()]


def prompts_of(condition: TextCondition) -> list[Tensor]:
    """The embeddings of each prompt, (T, D of its own), without padding; lengths are read off where there is any."""
    if condition.mask is None:
        return list(condition.embeds)
    lengths = condition.mask.sum(1).tolist()
    return [embeds[:length] for embeds, length in zip(condition.embeds, lengths, strict=True)]


def check_sides(width: int, height: int, *, factor: int, steps: tuple[int, int]) -> None:
    """Raise DataError for a side that is no positive multiple of the autoencoder's factor times a step."""
    down, across = steps
    for name, value, side in (("width", width, across), ("height", height, down)):
        step = factor * side
        if value < step or value % step:
            near = max(step, round(value / step) * step)
            raise DataError(
                f"{name} {value} is not a positive multiple of {step}; the nearest one is {near} (a latent is "
                f"{factor}x{factor} pixels, and the network takes patches of {down}x{across} latents)"
            )


def check_no_video(frames: int | None) -> None:
    """Raise DataError where a model of pictures is asked for a video; None and 1 are a picture."""
    if frames not in (None, 1):
        raise DataError(f"this model draws pictures, and {frames} frames are asked for; leave frames out")


def pack(x: Tensor) -> Tensor:
    """Tokens (B, N, 4 C) of x (B, C, H, W), as the pipelines pack them."""
    from diffusers import FluxPipeline

    return FluxPipeline._pack_latents(x, *x.shape)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse: (B, C, height, width) of tokens (B, N, 4 C) with any number of channels."""
    from diffusers import FluxPipeline

    return FluxPipeline._unpack_latents(tokens, height, width, 1)


def plain_projection(projection: nn.Linear, dtype: torch.dtype) -> nn.Linear:
    """The projection itself, or where it is quantised one of its shape, whose values nobody may use, in `dtype`."""
    if projection.weight.is_floating_point():
        return projection
    options = {"bias": projection.bias is not None, "device": projection.weight.device, "dtype": dtype}
    return nn.Linear(projection.in_features, projection.out_features, **options)


def block_targets(module: nn.Module, blocks: str, layers: Sequence[str], *, count: int | None = None) -> list[str]:
    """Full names of layers in every block of a list, or in the first `count` of them."""
    total = len(module.get_submodule(blocks)) if count is None else count
    return [f"{blocks}.{i}.{layer}" for i in range(total) for layer in layers]
