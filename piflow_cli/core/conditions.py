"""What a text-to-image network is conditioned on, as one value that batches, slices and moves as a whole.

Shapes: B batch, T text tokens, D width of the text embeddings, P width of the pooled embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from piflow_cli.core.flow import send


@dataclass(frozen=True)
class TextCondition:
    """Encoded prompts.

    Args:
        embeds: text embeddings, (B, T, D).
        mask: True where there is a token, (B, T); None where every position counts, padding too.
        pooled: pooled embedding, (B, P), None for families without one.
        guidance: guidance scale that the network embeds, (B,), None for networks that embed none.
    """

    embeds: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    guidance: Tensor | None = None

    def __len__(self) -> int:
        return self.embeds.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> TextCondition:
        """Some rows of the batch; T stays."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> TextCondition:
        """The same on another device."""
        return self._map(lambda tensor: send(tensor, device))

    def expand(self, count: int) -> TextCondition:
        """A condition of one row as `count` rows that share its memory."""
        return self._map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def cast(self, dtype: torch.dtype) -> TextCondition:
        """The same with its embeddings in another dtype, and without guidance."""
        pooled = None if self.pooled is None else self.pooled.to(dtype)
        return replace(self, embeds=self.embeds.to(dtype), pooled=pooled, guidance=None)

    def with_guidance(self, scale: float) -> TextCondition:
        """The same with another embedded guidance scale; itself where the network embeds none."""
        return self if self.guidance is None else replace(self, guidance=torch.full_like(self.guidance, scale))

    def rows(self) -> list[TextCondition]:
        """One condition a prompt, (1, T, D), each without the padding that its mask says it has."""
        parts = [self[i : i + 1] for i in range(len(self))]
        return [part if part.mask is None else part._trimmed() for part in parts]

    def _trimmed(self) -> TextCondition:
        length = int(self.mask.nonzero()[-1, 1]) + 1 if bool(self.mask.any()) else 1
        return replace(self, embeds=self.embeds[:, :length], mask=self.mask[:, :length])

    def _map(self, function) -> TextCondition:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: function(value) for name, value in values.items() if value is not None})


def join_conditions(parts: Sequence[TextCondition]) -> TextCondition:
    """One batch of several conditions, padded with zeros to the longest T; padding is masked.

    Raises:
        ValueError: no parts, or parts of different kinds.
    """
    if not parts:
        raise ValueError("no conditions to join")
    if len({(part.pooled is None, part.guidance is None) for part in parts}) > 1:
        raise ValueError("conditions of different kinds cannot be joined")
    longest = max(part.embeds.shape[1] for part in parts)
    masked = any(part.mask is not None or part.embeds.shape[1] != longest for part in parts)
    optional = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("pooled", "guidance")
        if getattr(parts[0], name) is not None
    }
    return TextCondition(
        embeds=torch.cat([_pad(part.embeds, longest) for part in parts]),
        mask=torch.cat([_pad(_full_mask(part), longest) for part in parts]) if masked else None,
        **optional,
    )


def _full_mask(part: TextCondition) -> Tensor:
    return part.mask if part.mask is not None else part.embeds.new_ones(part.embeds.shape[:2], dtype=torch.bool)


def _pad(tensor: Tensor, length: int) -> Tensor:
    """Zeros (or False) up to `length` along dimension 1."""
    missing = length - tensor.shape[1]
    return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing, *tensor.shape[2:])], dim=1)
