"""Cached latents: safetensors shards with `latents` (N, C, *S) and `labels` (N,), read as they are drawn.

Shapes: B batch, N latents of a shard, C latent channels, S spatial dims.
"""

import bisect
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from piflow_cli.core.interfaces import Condition, DataSource, Draw, Space
from piflow_cli.data.noise import ClassData, check_classes, draw_rows
from piflow_cli.data.reading import Labels, Rows
from piflow_cli.data.shards.latents import check_complete
from piflow_cli.errors import DataError
from piflow_cli.io.folders import shards_of
from piflow_cli.io.tensors.files import open_tensors
from piflow_cli.io.texts.names import user_path

FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
INTEGERS = frozenset({"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"})


@dataclass(frozen=True)
class LatentReader:
    """Reads latents with what belongs to them.

    Args:
        paths: shards.
        ends: running counts of their latents.
        rows: labels or prompts, in the order of the latents.
    """

    paths: tuple[Path, ...]
    ends: tuple[int, ...]
    rows: Rows

    def __post_init__(self) -> None:
        """Raise DataError where there are none to draw."""
        if not self.ends or not self.ends[-1]:
            raise DataError(f"{self.paths[0].parent} holds no latents: its shards are empty. Name another folder")

    def read(self, draw: Draw) -> tuple[Tensor, Condition]:
        """Latents (B, C, *S) in float32, and what belongs to them.

        Raises:
            DataError: a shard can no longer be read, or a latent is not finite.
        """
        by_shard = defaultdict(list)
        for place, i in enumerate(draw.rows):
            shard = bisect.bisect_right(self.ends, i)
            by_shard[shard].append((place, i - (self.ends[shard - 1] if shard else 0)))
        latents: dict[int, Tensor] = {}  # by place in the batch
        for shard, wanted in by_shard.items():
            rows = _read_rows(self.paths[shard], [row for _, row in wanted])
            latents |= {place: latent for (place, _), latent in zip(wanted, rows, strict=True)}
        return torch.cat([latents[place] for place in range(len(draw.rows))]), self.rows.take(draw.rows)


def _read_rows(path: Path, rows: list[int]) -> list[Tensor]:
    """Some latents of a shard, each (1, C, *S) in float32 and finite."""
    with open_tensors(path, what="latents", error=DataError) as file:
        latents = file.get_slice("latents")
        found = [latents[row : row + 1].float() for row in rows]
    for row, latent in zip(rows, found, strict=True):
        if not torch.isfinite(latent).all():
            bad = latent[~torch.isfinite(latent)]
            raise DataError(
                f"{path} latent {row} holds {float(bad[0])} ({len(bad)} of {latent.numel()} values are not finite); "
                "an autoencoder in float16 overflows: encode the picture again in bfloat16 or float32"
            )
    return found


def read_shard(path: Path, latent_shape: tuple[int, ...], *, what: str) -> tuple[int, dict[str, str]]:
    """N and the metadata of a shard.

    Args:
        latent_shape: (C, *S) that the teacher takes.
        what: what the shard should hold, for messages.

    Raises:
        DataError: it is damaged, or of latents of another shape or of no floats.
    """
    with open_tensors(path, what=f"a shard of {what}", error=DataError) as file:
        latents = file.get_slice("latents")
        shape, dtype, metadata = latents.get_shape(), latents.get_dtype(), file.metadata() or {}
    if tuple(shape[1:]) != tuple(latent_shape):
        wanted = ", ".join(map(str, latent_shape))
        raise DataError(f"{path} has latents {shape}; this teacher at its size needs (N, {wanted})")
    if dtype not in FLOATS:
        raise DataError(f"{path} has latents of {dtype}; they have to be floats: {', '.join(sorted(FLOATS))}")
    return shape[0], metadata


def _read_labels(path: Path, count: int, num_classes: int) -> list[int]:
    """N labels of a shard, each a class of the teacher."""
    with open_tensors(path, what="a shard of latents and labels", error=DataError) as file:
        found = file.get_slice("labels")
        shape, dtype = found.get_shape(), found.get_dtype()
        if shape != [count] or dtype not in INTEGERS:
            raise DataError(f"{path} has labels {shape} of {dtype} for {count} latents; it needs ({count},) integers")
        labels = file.get_tensor("labels").long()
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(outside):
        row = int(outside[0])
        raise DataError(
            f"{path} has the label {int(labels[row])} at latent {row}, {len(outside)} in all that are no class: this "
            f"teacher has the classes 0 to {num_classes - 1}"
        )
    return labels.tolist()


@dataclass(frozen=True)
class ShardSource(DataSource):
    """Latents of shards on disk with their labels, drawn with replacement over all shards."""

    reader: LatentReader
    class_names: Mapping[int, str] = field(default_factory=dict)

    has_images = True
    reads_files = True

    @property
    def contents(self) -> str:
        """How many latents."""
        return f"{self.reader.ends[-1]:,} latents with labels"

    def plan(
        self,
        batch_size: int,
        generator: torch.Generator,
        *,
        size_px: tuple[int, int] | None = None,  # noqa: ARG002
    ) -> Draw:
        """Latents drawn with replacement."""
        return draw_rows(self.reader.ends[-1], batch_size, generator)

    def encode(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Latents (B, C, *S) in float32 and labels (B,), as they were read."""
        return batch


class Latents(ClassData):
    """Latents that the teacher's autoencoder made earlier."""

    type: Literal["latents"] = "latents"
    latents: ClassVar[None] = None
    has_images: ClassVar[bool] = True
    path: str = Field(description="folder of .safetensors shards with latents (N, C, H, W) and labels (N,)")

    def _shards(self) -> list[Path]:
        root = user_path(self.path)
        return shards_of(root, ".safetensors") if root.exists() else []

    def source_paths(self) -> dict[str, Path]:
        """The local files and folders that its samples are read from, by the key that names them."""
        return {"path": user_path(self.path)}

    def check_source(self) -> None:
        """Raise DataError where there are no shards."""
        if not self._shards():
            raise DataError(f"data.path {self.path} has no .safetensors shards")

    def open(self, space: Space) -> ShardSource:
        """The shards.

        Raises:
            DataError: no shards, one of another shape, labels that are no classes, or the teacher takes prompts.
        """
        check_classes(space)
        self.check_source()
        return open_shards(user_path(self.path), space)


def open_shards(root: Path, space: Space) -> ShardSource:
    """Latents with labels below a path.

    Raises:
        DataError: as `Latents.open`; or shards are missing of those that were to be made.
    """
    index = check_complete(root) if root.is_dir() else None
    paths = shards_of(root, ".safetensors")
    counts = [read_shard(path, space.latent_shape, what="latents and labels")[0] for path in paths]
    labels = [
        label
        for path, count in zip(paths, counts, strict=True)
        for label in _read_labels(path, count, space.num_classes)
    ]
    reader = LatentReader(tuple(paths), tuple(accumulate(counts)), Labels(tuple(labels)))
    return ShardSource(reader, class_names=index.class_names if index is not None else {})
