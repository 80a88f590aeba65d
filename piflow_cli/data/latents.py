"""Cached latents: safetensors shards with `latents` (N, C, *S) and `labels` (N,), read as they are drawn."""

import bisect
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from piflow_cli.core.interfaces import DataSource, Space
from piflow_cli.core.settings import Settings
from piflow_cli.data.noise import check_classes, draw_indices
from piflow_cli.errors import DataError


@dataclass(frozen=True)
class ShardSource(DataSource):
    """Shards on disk; `ends` are the running counts of their samples."""

    paths: tuple[Path, ...]
    ends: tuple[int, ...]

    has_images = True

    def draw(
        self,
        batch_size: int,
        generator: torch.Generator,
        *,
        size_px: tuple[int, int] | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Latents (B, C, *S) in float32 and labels (B,), drawn with replacement over all shards."""
        from safetensors import safe_open

        index = draw_indices(self.ends[-1], batch_size, generator).tolist()
        by_shard = defaultdict(list)
        for place, i in enumerate(index):
            shard = bisect.bisect_right(self.ends, i)
            by_shard[shard].append((place, i - (self.ends[shard - 1] if shard else 0)))
        rows: list[tuple[int, Tensor, Tensor]] = []
        for shard, wanted in by_shard.items():
            with safe_open(self.paths[shard], framework="pt") as file:
                latents, labels = file.get_slice("latents"), file.get_slice("labels")
                rows += [(place, latents[i : i + 1], labels[i : i + 1]) for place, i in wanted]
        rows.sort(key=lambda row: row[0])
        return torch.cat([row[1] for row in rows]).float(), torch.cat([row[2] for row in rows]).long()


class Latents(Settings):
    """Latents that the teacher's autoencoder made earlier."""

    type: Literal["latents"] = "latents"
    has_images: ClassVar[bool] = True
    cache: ClassVar[None] = None
    path: str = Field(description="folder of .safetensors shards with latents (N, C, H, W) and labels (N,)")

    def _shards(self) -> tuple[Path, ...]:
        return tuple(sorted(Path(self.path).expanduser().glob("*.safetensors")))

    def check_source(self) -> None:
        """Raise DataError where there are no shards."""
        if not self._shards():
            raise DataError(f"data.path {self.path} has no .safetensors shards")

    def open(self, space: Space) -> ShardSource:
        """The shards.

        Raises:
            DataError: no shards, one of another shape, or the teacher takes prompts.
        """
        from safetensors import SafetensorError, safe_open

        check_classes(space)
        self.check_source()
        paths = self._shards()
        counts = []
        for path in paths:
            try:
                with safe_open(path, framework="pt") as file:
                    shape = file.get_slice("latents").get_shape()
                    count = file.get_slice("labels").get_shape()[0]
            except (SafetensorError, OSError) as error:
                raise DataError(f"{path} is no shard of latents and labels: {error}") from None
            if tuple(shape[1:]) != tuple(space.latent_shape) or shape[0] != count:
                raise DataError(
                    f"{path} has latents {shape} for {count} labels; this teacher needs (N, "
                    f"{', '.join(map(str, space.latent_shape))}) with N labels"
                )
            counts.append(shape[0])
        return ShardSource(paths=paths, ends=tuple(accumulate(counts)))
