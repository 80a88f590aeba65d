"""What a text-to-image network is conditioned on, as one value that batches, slices and moves as a whole.

Shapes: B batch, T text tokens, D width of the text embeddings, P width of the pooled embedding, R tokens of reference
pictures, C values of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from piflow_cli.core.flow import send

if TYPE_CHECKING:
    from PIL.Image import Image

Sizes = tuple[tuple[int, int], ...]
"""Rows and columns of tokens of the reference pictures of a prompt."""


@dataclass(frozen=True)
class Instruction:
    """A prompt with the pictures that it is about.

    Args:
        text: what to make of them.
        pictures: in the order in which the prompt counts them, of any size.
        names: what they are called.
    """

    text: str
    pictures: tuple[Image, ...] = ()
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


Prompt = str | Instruction
"""A prompt alone, or with pictures."""


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
class References:
    """Reference pictures of prompts, encoded: those of a prompt one after the other.

    Args:
        tokens: latents in patches, (B, R, C), zeros beyond those of a prompt.
        sizes: of the pictures of each prompt.
        negative: what the text encoder makes of the negative prompt beside these pictures; None where it sees none.
    """

    tokens: Tensor
    sizes: tuple[Sizes, ...]
    negative: Embeddings | None = None

    def groups(self) -> list[list[int]]:
        """Rows whose pictures are of the same number and sizes, in the order of their first ones."""
        found: dict[Sizes, list[int]] = {}
        for row, sizes in enumerate(self.sizes):
            found.setdefault(sizes, []).append(row)
        return list(found.values())

    def of_one_layout(self) -> tuple[Tensor, Sizes]:
        """Tokens (B, R, C) without padding, and the sizes of the pictures, of rows that are one group."""
        (sizes,) = set(self.sizes)
        return self.tokens[:, : _num_tokens(sizes)], sizes

    def map(self, function: Callable[[Tensor], Tensor], *, rows: Sequence[int] | None = None) -> References:
        """The same of other tensors; `rows` says which of the rows they hold, None is all."""
        return References(
            function(self.tokens),
            self.sizes if rows is None else tuple(self.sizes[row] for row in rows),
            None if self.negative is None else self.negative.map(function),
        )

    def trimmed(self) -> References:
        """Those of one prompt without padding."""
        negative = None if self.negative is None else self.negative.trimmed()
        return References(self.tokens[:, : _num_tokens(self.sizes[0])], self.sizes, negative)

    def parts(self) -> tuple[Tensor | None, ...]:
        """All that it holds."""
        return (self.tokens, *((self.negative.embeds, self.negative.mask) if self.negative is not None else ()))


def _num_tokens(sizes: Sizes) -> int:
    return sum(rows * columns for rows, columns in sizes)


@dataclass(frozen=True)
class TextCondition:
    """Encoded prompts.

    Args:
        embeds: text embeddings, (B, T, D).
        mask: True where there is a token, (B, T); None where every position counts, padding too.
        pooled: pooled embedding, (B, P), None for families without one.
        guidance: guidance scale that the network embeds, (B,), None for networks that embed none.
        further: what other text encoders make of the same prompts, each of a length and width of its own.
        references: of the pictures that the prompts are about, None where there are none.
    """

    embeds: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    guidance: Tensor | None = None
    further: tuple[Embeddings, ...] = ()
    references: References | None = None

    def __len__(self) -> int:
        return self.embeds.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> TextCondition:
        """Some rows of the batch; T stays."""
        kept = None if self.references is None else torch.arange(len(self))[_on_host(rows)].tolist()
        return self._map(lambda tensor: tensor[rows], rows=kept)

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
        held += self.references.parts() if self.references is not None else ()
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
        return self._map(lambda tensor: tensor.expand(count, *tensor.shape[1:]), rows=[0] * count)

    def with_guidance(self, scale: float) -> TextCondition:
        """The same with another embedded guidance scale; itself where the network embeds none."""
        return self if self.guidance is None else replace(self, guidance=torch.full_like(self.guidance, scale))

    def rows(self) -> list[TextCondition]:
        """One condition a prompt, (1, T, D), each without the padding that its masks say it has."""
        return [self[i : i + 1]._trimmed() for i in range(len(self))]

    def against(self, null: Callable[[int], TextCondition], rows: Sequence[int]) -> TextCondition:
        """The negative prompt in the place of some rows, about the same pictures.

        Args:
            null: that prompt without pictures, as many times as it is asked for; not asked where the encoder sees them.
            rows: which.
        """
        if self.references is None:
            return null(len(rows))
        index = torch.tensor(list(rows), device=self.references.tokens.device)
        about = self.references.map(lambda tensor: tensor[index], rows=rows)
        if about.negative is None:
            return replace(null(len(rows)), references=about)
        guidance = None if self.guidance is None else self.guidance[index]
        return TextCondition(about.negative.embeds, about.negative.mask, guidance=guidance, references=about)

    def _trimmed(self) -> TextCondition:
        first, *further = (item.trimmed() for item in self.sequences)
        about = None if self.references is None else self.references.trimmed()
        return replace(self, embeds=first.embeds, mask=first.mask, further=tuple(further), references=about)

    def _map(self, function: Callable[[Tensor], Tensor], *, rows: Sequence[int] | None = None) -> TextCondition:
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in NESTED}
        mapped = {name: function(value) for name, value in values.items() if value is not None}
        about = None if self.references is None else self.references.map(function, rows=rows)
        return replace(self, **mapped, further=tuple(item.map(function) for item in self.further), references=about)


NESTED = ("further", "references")
"""Fields that hold tensors inside."""


def _on_host(rows: slice | Tensor) -> slice | Tensor:
    return rows.cpu() if isinstance(rows, Tensor) else rows


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
    about = _join_references([(part.references, len(part)) for part in parts])
    return TextCondition(embeds=first.embeds, mask=first.mask, further=tuple(further), references=about, **optional)


def _join_references(parts: Sequence[tuple[References | None, int]]) -> References | None:
    """References of several batches, each with its number of rows, as of one; rows may have none."""
    there = [about for about, _ in parts if about is not None]
    if not there:
        return None
    seen = [about.negative for about in there if about.negative is not None]
    if seen and len(seen) < len(parts):
        raise ValueError("conditions of different kinds cannot be joined")
    none = there[0].tokens[:1, :0]  # (1, 0, C)
    tokens = [none.expand(count, -1, -1) if about is None else about.tokens for about, count in parts]
    longest = max(item.shape[1] for item in tokens)
    return References(
        tokens=torch.cat([_pad(item, longest) for item in tokens]),
        sizes=tuple(sizes for about, count in parts for sizes in (about.sizes if about is not None else ((),) * count)),
        negative=_join(seen) if seen else None,
    )


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
