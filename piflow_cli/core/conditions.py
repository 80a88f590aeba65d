"""What a text-to-image network is conditioned on, as one value that batches, slices and moves as a whole.

Shapes: B batch, T text tokens, D width of the text embeddings, P width of the pooled embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from piflow_cli.core.flow import send


@dataclass(frozen=True)
class Embeddings:
    """What one text encoder makes of prompts.

    Args:
        embeds: (B, T, D).
        mask: True where there is a token, (B, T); None where every position counts, padding too.
    """

    embeds: Tensor
    mask: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Embeddings:
        """The same of other tensors."""
        return Embeddings(function(self.embeds), None if self.mask is None else function(self.mask))

    def trimmed(self) -> Embeddings:
        """A prompt (1, T, D) without the padding that its mask says it has."""
        if self.mask is None:
            return self
        length = int(self.mask.nonzero()[-1, 1]) + 1 if bool(self.mask.any()) else 1
        return Embeddings(self.embeds[:, :length], self.mask[:, :length])

    def finite(self) -> bool:
        """Whether every value that counts is a finite number."""
        kept = self.embeds if self.mask is None else self.embeds[self.mask.bool()]
        return bool(torch.isfinite(kept).all())


@dataclass(frozen=True)
class TextCondition:
    """Encoded prompts.

    Args:
        embeds: text embeddings, (B, T, D).
        mask: True where there is a token, (B, T); None where every position counts, padding too.
        pooled: pooled embedding, (B, P), None for families without one.
        guidance: guidance scale that the network embeds, (B,), None for networks that embed none.
        further: what other text encoders make of the same prompts, each of a length and width of its own.
    """

    embeds: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    guidance: Tensor | None = None
    further: tuple[Embeddings, ...] = ()

    def __len__(self) -> int:
        return self.embeds.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> TextCondition:
        """Some rows of the batch; T stays."""
        return self._map(lambda tensor: tensor[rows])

    @property
    def sequences(self) -> tuple[Embeddings, ...]:
        """What each text encoder makes of the prompts, the first one first."""
        return (Embeddings(self.embeds, self.mask), *self.further)

    @property
    def kind(self) -> tuple[bool, bool, int]:
        """What conditions that are joined have in common."""
        return self.pooled is None, self.guidance is None, len(self.further)

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds."""
        held = [part for item in self.sequences for part in (item.embeds, item.mask)] + [self.pooled, self.guidance]
        return (tensor for tensor in held if tensor is not None)

    def to(self, device: torch.device | str) -> TextCondition:
        """The same on another device."""
        return self._map(lambda tensor: send(tensor, device))

    def cast(self, dtype: torch.dtype) -> TextCondition:
        """The same with its embeddings in another dtype, and without guidance."""
        plain = replace(self, guidance=None)
        return plain._map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    def expand(self, count: int) -> TextCondition:
        """A condition of one row as `count` rows that share its memory."""
        return self._map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def with_guidance(self, scale: float) -> TextCondition:
        """The same with another embedded guidance scale; itself where the network embeds none."""
        return self if self.guidance is None else replace(self, guidance=torch.full_like(self.guidance, scale))

    def rows(self) -> list[TextCondition]:
        """One condition a prompt, (1, T, D), each without the padding that its masks say it has."""
        return [self[i : i + 1]._trimmed() for i in range(len(self))]

    def _trimmed(self) -> TextCondition:
        first, *further = (item.trimmed() for item in self.sequences)
        return replace(self, embeds=first.embeds, mask=first.mask, further=tuple(further))

    def _map(self, function: Callable[[Tensor], Tensor]) -> TextCondition:
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "further"}
        mapped = {name: function(value) for name, value in values.items() if value is not None}
        return replace(self, **mapped, further=tuple(item.map(function) for item in self.further))


def join_conditions(parts: Sequence[TextCondition]) -> TextCondition:
    """One batch of several conditions, each sequence padded with zeros to its longest T; padding is masked.

    Raises:
        ValueError: no parts, or parts of different kinds.
    """
    if not parts:
        raise ValueError("no conditions to join")
    if len({part.kind for part in parts}) > 1:
        raise ValueError("conditions of different kinds cannot be joined")
    first, *further = (_join(items) for items in zip(*(part.sequences for part in parts), strict=True))
    optional = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("pooled", "guidance")
        if getattr(parts[0], name) is not None
    }
    return TextCondition(embeds=first.embeds, mask=first.mask, further=tuple(further), **optional)


def _join(items: Sequence[Embeddings]) -> Embeddings:
    """Several batches of one encoder as one."""
    longest = max(item.embeds.shape[1] for item in items)
    masked = any(item.mask is not None or item.embeds.shape[1] != longest for item in items)
    return Embeddings(
        embeds=torch.cat([_pad(item.embeds, longest) for item in items]),
        mask=torch.cat([_pad(_full_mask(item), longest) for item in items]) if masked else None,
    )


def _full_mask(item: Embeddings) -> Tensor:
    return item.mask if item.mask is not None else item.embeds.new_ones(item.embeds.shape[:2], dtype=torch.bool)


def _pad(tensor: Tensor, length: int) -> Tensor:
    """Zeros (or False) up to `length` along dimension 1."""
    missing = length - tensor.shape[1]
    return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing, *tensor.shape[2:])], dim=1)
