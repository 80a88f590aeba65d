"""How encoded prompts are stored: padding cut, in float8 with a scale a token or bfloat16, each prompt entropy-coded.

Shapes: N prompts of a shard, T tokens of a prompt, L tokens of all of them, D embedding width, P pooled width,
R tokens of a prompt's reference pictures, C values of one.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from piflow_cli.core.conditions import Embeddings, References, Sizes, TextCondition
from piflow_cli.errors import DataError
from piflow_cli.io.bounds import MAX_EMBEDDING_BYTES
from piflow_cli.io.tensors.files import open_tensors

Storage = Literal["fp8", "bf16"]
FP8_MAX = 448.0
"""The greatest value of float8_e4m3fn."""
MIN_SCALE = 2.0**-100
"""A token of zeros has no scale of its own, and float32 divides badly by denormals."""
NEGATIVE = ".negative"
"""Behind the names of what encoders made of negative prompts."""
BYTES = {"fp8": 1, "bf16": 2}


@dataclass(frozen=True)
class PackedSequence:
    """What one text encoder made of a prompt, as it is stored.

    Args:
        data: compressed embeddings.
        tokens: T.
        scales: scale of each token under fp8, float32 (T,).
        mask: (T,), or None.
    """

    data: bytes
    tokens: int
    scales: Tensor | None
    mask: Tensor | None


@dataclass(frozen=True)
class PackedRow:
    """One prompt as it is stored.

    Args:
        sequences: of every text encoder.
        pooled: float32 (P,), or None.
        about: float16 tokens (R, C) of reference pictures and the sizes of these, or None.
        negative: of the negative prompt beside them, or None.
    """

    sequences: tuple[PackedSequence, ...]
    pooled: Tensor | None
    about: tuple[Tensor, Sizes] | None = None
    negative: PackedSequence | None = None


def pack(condition: TextCondition, storage: Storage) -> list[PackedRow]:
    """The prompts of a batch (B, T, D) as they are stored; guidance is left out."""
    return [_pack_row(row, storage) for row in condition.rows()]


def _pack_row(row: TextCondition, storage: Storage) -> PackedRow:
    about = row.references
    against = about.negative if about is not None else None
    return PackedRow(
        sequences=tuple(_pack_sequence(item, storage) for item in row.sequences),
        pooled=None if row.pooled is None else row.pooled[0].float().cpu(),
        about=None if about is None else (about.tokens[0].half().cpu(), about.sizes[0]),
        negative=None if against is None else _pack_sequence(against, storage),
    )


def _pack_sequence(item: Embeddings, storage: Storage) -> PackedSequence:
    scales = None
    if storage == "fp8":
        values, scales = quantise(item.embeds[0].float())
        planes = values.view(torch.uint8)
    else:  # the bytes of signs and exponents before those of mantissas: each kind has its own code
        planes = item.embeds[0].bfloat16().contiguous().view(torch.uint8).reshape(-1, 2).t().contiguous()
    return PackedSequence(
        data=_compress(planes.cpu()),
        tokens=item.embeds.shape[1],
        scales=None if scales is None else scales.cpu(),
        mask=None if item.mask is None else item.mask[0].bool().cpu(),
    )


def quantise(embeds: Tensor) -> tuple[Tensor, Tensor]:
    """float8_e4m3fn values (T, D) and float32 scales (T,) of finite float32 embeddings (T, D).

    With amax the greatest magnitude of a token and scale = amax / 448, an element x returns within
    max(2^-4 |x|, 2^-10 scale): half of a step of 3 mantissa bits, or of the denormals. A scale a token keeps the
    outliers of one token from costing the others their precision.
    """
    scales = (embeds.abs().amax(dim=1) / FP8_MAX).clamp(min=MIN_SCALE)
    scaled = (embeds / scales[:, None]).clamp(-FP8_MAX, FP8_MAX)
    return scaled.to(torch.float8_e4m3fn), scales


def _compress(data: Tensor) -> bytes:
    """Huffman codes alone: embeddings repeat no strings, and searching for them costs most of the time."""
    coder = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data.numpy()) + coder.flush()


def shard_tensors(rows: Sequence[PackedRow]) -> dict[str, Tensor]:
    """The tensors of a shard: `data` by `offsets` (N + 1,); `scales` and `mask` (L,) by `ends` (N + 1,); `pooled`.

    Those of further encoders have their number behind their names, as in `data.1`, and those of negative prompts that
    are about pictures `.negative`. Reference pictures are `references` by `reference_ends` (N + 1,), tokens in float16,
    and `reference_sizes`, rows and columns of each, by `reference_counts` (N + 1,).
    """
    tensors = _reference_tensors(rows)
    if all(row.negative is not None for row in rows):
        negative = _sequence_tensors([row.negative for row in rows])
        tensors |= {f"{name}{NEGATIVE}": tensor for name, tensor in negative.items()}
    for number, items in enumerate(zip(*(row.sequences for row in rows), strict=True)):
        tensors |= {f"{name}{_suffix(number)}": tensor for name, tensor in _sequence_tensors(items).items()}
    if rows[0].pooled is not None:
        tensors["pooled"] = torch.stack([row.pooled for row in rows])
    return tensors


def _reference_tensors(rows: Sequence[PackedRow]) -> dict[str, Tensor]:
    """The reference pictures of the prompts of a shard."""
    there = [row.about[0] for row in rows if row.about is not None]
    if not there:
        return {}
    tokens = [there[0][:0] if row.about is None else row.about[0] for row in rows]
    sizes = [() if row.about is None else row.about[1] for row in rows]
    return {
        "references": torch.cat(tokens),
        "reference_ends": torch.tensor([0, *accumulate(map(len, tokens))]),
        "reference_sizes": torch.tensor([size for row in sizes for size in row]).reshape(-1, 2),
        "reference_counts": torch.tensor([0, *accumulate(map(len, sizes))]),
    }


def _suffix(number: int) -> str:
    return f".{number}" if number else ""


def _sequence_tensors(items: Sequence[PackedSequence]) -> dict[str, Tensor]:
    """What one encoder made of the prompts of a shard."""
    tensors = {
        "data": torch.frombuffer(bytearray(b"".join(item.data for item in items)), dtype=torch.uint8),
        "offsets": torch.tensor([0, *accumulate(len(item.data) for item in items)]),
        "ends": torch.tensor([0, *accumulate(item.tokens for item in items)]),
    }
    if items[0].scales is not None:
        tensors["scales"] = torch.cat([item.scales for item in items])
    if any(item.mask is not None for item in items):
        full = [torch.ones(item.tokens, dtype=torch.bool) if item.mask is None else item.mask for item in items]
        tensors["mask"] = torch.cat(full)
    return tensors


def read_row(path: Path, row: int, *, storage: Storage, widths: Sequence[int], dtype: torch.dtype) -> TextCondition:
    """One prompt (1, T, D) of a shard, reading its own bytes only.

    Args:
        widths: D of every encoder's embeddings.

    Raises:
        ValueError: the row is damaged.
        DataError: the file is missing or damaged.
    """
    (packed,) = packed_rows(path, [row], num_encoders=len(widths))

    def unpack(item: PackedSequence, width: int) -> Embeddings:
        embeds = _decode(item.data, item.scales, shape=(item.tokens, width), storage=storage, dtype=dtype)
        return Embeddings(embeds[None], None if item.mask is None else item.mask[None])

    first, *further = map(unpack, packed.sequences, widths)
    negative = None if packed.negative is None else unpack(packed.negative, widths[0])
    pooled, about = packed.pooled, packed.about
    return TextCondition(
        first.embeds,
        first.mask,
        pooled=None if pooled is None else pooled[None].to(dtype),
        further=tuple(further),
        references=None if about is None else References(about[0].to(dtype)[None], (about[1],), negative),
    )


def packed_rows(path: Path, rows: Iterable[int], *, num_encoders: int) -> list[PackedRow]:
    """Prompts of a shard as they are stored; errors as `read_row`."""
    with open_tensors(path, what="embeddings", error=DataError) as file:
        names = set(file.keys())
        return [
            PackedRow(
                sequences=tuple(_read_sequence(file, names, row, _suffix(number)) for number in range(num_encoders)),
                pooled=_between(file, "pooled", row, row + 1)[0] if "pooled" in names else None,
                about=_read_references(file, row) if "references" in names else None,
                negative=_read_sequence(file, names, row, NEGATIVE) if f"data{NEGATIVE}" in names else None,
            )
            for row in rows
        ]


def _read_references(file: Any, row: int) -> tuple[Tensor, Sizes]:
    """Tokens (R, C) of a prompt's reference pictures, and the sizes of these."""
    tokens = _between(file, "references", *_pair(file, "reference_ends", row))
    sizes = _between(file, "reference_sizes", *_pair(file, "reference_counts", row)).tolist()
    if any(side < 1 for size in sizes for side in size) or sum(rows * columns for rows, columns in sizes) != len(
        tokens
    ):
        raise ValueError(f"{len(tokens)} tokens of reference pictures do not make up {sizes}")
    return tokens, tuple((rows, columns) for rows, columns in sizes)


def _read_sequence(file: Any, names: set[str], row: int, suffix: str) -> PackedSequence:
    """What one encoder made of a prompt."""
    data = _between(file, f"data{suffix}", *_pair(file, f"offsets{suffix}", row))
    start, stop = _pair(file, f"ends{suffix}", row)
    return PackedSequence(
        data=data.numpy().tobytes(),
        tokens=stop - start,
        scales=_between(file, f"scales{suffix}", start, stop) if f"scales{suffix}" in names else None,
        mask=_between(file, f"mask{suffix}", start, stop) if f"mask{suffix}" in names else None,
    )


def _decode(
    data: bytes, scales: Tensor | None, *, shape: tuple[int, int], storage: Storage, dtype: torch.dtype
) -> Tensor:
    """Embeddings (T, D) of their compressed bytes."""
    size = shape[0] * shape[1] * BYTES[storage]
    if not 0 <= size <= MAX_EMBEDDING_BYTES:
        raise ValueError(f"{shape[0]} tokens of width {shape[1]} are more than are read")
    try:
        decoder = zlib.decompressobj()
        raw = bytearray(decoder.decompress(data, size + 1))  # no more than is wanted
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not decoder.eof or len(raw) != size or (scales is None) != (storage == "bf16"):
        raise ValueError(f"{len(raw)} bytes for {shape[0]} tokens of width {shape[1]} in {storage}")
    planes = torch.frombuffer(raw, dtype=torch.uint8)
    if storage == "bf16":
        return planes.reshape(2, -1).t().contiguous().view(torch.bfloat16).reshape(shape).to(dtype)
    return planes.view(torch.float8_e4m3fn).reshape(shape).float().mul_(scales[:, None]).to(dtype)


def _pair(file: Any, name: str, row: int) -> tuple[int, int]:
    """Where a row begins and ends."""
    pair = _between(file, name, row, row + 2).tolist()
    if pair[0] > pair[1] or pair[0] < 0:
        raise ValueError(f"{name} of row {row} are {pair}")
    return pair[0], pair[1]


def _between(file: Any, name: str, start: int, stop: int) -> Tensor:
    """Rows start to stop - 1 of a tensor, all of them there."""
    rows = file.get_slice(name)[start:stop]
    if len(rows) != stop - start:
        raise ValueError(f"{name} has no rows {start} to {stop - 1}")
    return rows
