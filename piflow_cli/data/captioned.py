"""Text-to-image with pictures: captioned pictures that are encoded as they are drawn, or latents cached with prompts.

Shapes: B batch, N latents of a shard, C latent channels, H, W latent size.
"""

import bisect
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import Space
from piflow_cli.core.settings import Settings
from piflow_cli.data.embeddings.cache import CacheReader
from piflow_cli.data.embeddings.codec import Storage
from piflow_cli.data.files.pictures import Pictures, decode_picture, open_pictures, shards_of
from piflow_cli.data.files.prompts import PromptSet
from piflow_cli.data.noise import draw_indices
from piflow_cli.data.prompts import Resolution, TextRows, check_space, draw_size, open_texts, parse_resolution
from piflow_cli.errors import DataError

DECODING_THREADS = 8
PATIENCE = 16
"""Pictures that may fail before the share of failures counts."""


@dataclass
class PictureSource:
    """Captioned pictures drawn with replacement; `space` encodes them.

    Args:
        pictures: encoded pictures, in the order of their captions.
        texts: the captions.
        space: what the teacher works in.
        size_px: width and height where none is asked for.
        sizes: width and height of each aspect bucket.
        skipped: names of pictures that were left out: without a caption, or not decoding.
    """

    pictures: Pictures
    texts: TextRows
    space: Space
    size_px: tuple[int, int]
    sizes: tuple[tuple[int, int], ...] = ()
    skipped: list[str] = field(default_factory=list)
    num_read: int = 0
    num_failed: int = 0

    has_images = True

    @property
    def prompts(self) -> PromptSet:
        """All captions, in the order of their cache."""
        return self.texts.prompts

    def draw(
        self, batch_size: int, generator: torch.Generator, *, size_px: tuple[int, int] | None = None
    ) -> tuple[Tensor, list[str] | TextCondition]:
        """Latents (B, C, H, W) and B captions: texts, or their cached embeddings.

        A picture that does not decode is named in `skipped` and another one drawn in its place: the draws depend on the
        generator and the pictures alone.

        Args:
            size_px: width and height, as `draw_size` gave them; None takes the teacher's own.

        Raises:
            DataError: more than half of the pictures do not decode.
        """
        index = draw_indices(len(self.prompts), batch_size, generator).tolist()
        pictures: list[Tensor | None] = [None] * batch_size
        while missing := [place for place, picture in enumerate(pictures) if picture is None]:
            for place, picture in zip(missing, self._read([index[p] for p in missing], size_px), strict=True):
                pictures[place] = picture
            failed = [place for place in missing if pictures[place] is None]
            for place, other in zip(
                failed, draw_indices(len(self.prompts), len(failed), generator).tolist(), strict=True
            ):
                index[place] = other
        seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        posterior = torch.Generator(self.space.device).manual_seed(seed)
        return self.space.encode_images(torch.stack(pictures), generator=posterior), self.texts.take(index)

    def _read(self, index: list[int], size_px: tuple[int, int] | None) -> list[Tensor | None]:
        """Pictures (channels, height, width) in [0, 1]; None for those that do not decode."""
        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            results = list(pool.map(lambda i: self._decode(i, size_px or self.size_px), index))
        for i, result in zip(index, results, strict=True):
            self.num_read += 1
            if isinstance(result, str):
                self._skip(self.pictures.name(i), result)
        return [None if isinstance(result, str) else result for result in results]

    def _decode(self, index: int, size_px: tuple[int, int]) -> Tensor | str:
        """The picture, or why there is none."""
        try:
            content = self.pictures.content(index)
            return decode_picture(content, size_px=size_px, channels=self.space.image_channels)
        except (ValueError, OSError) as error:
            return str(error)

    def _skip(self, name: str, reason: str) -> None:
        self.num_failed += 1
        if name not in self.skipped:
            self.skipped.append(name)
        if self.num_failed > PATIENCE and self.num_failed > self.num_read / 2:
            raise DataError(
                f"{self.num_failed} of {self.num_read} pictures drawn do not decode, the last being {name}: {reason}. "
                "Check data.path."
            )

    def draw_size(self, generator: torch.Generator) -> tuple[int, int] | None:
        """Width and height in pixels of the next batch, or None for the teacher's own size."""
        return draw_size(self.sizes, generator)

    def preview(self, count: int) -> list[str] | TextCondition:
        """The first `count` captions, from the start again where there are fewer."""
        return self.texts.first(count)

    def with_cache(self, cache: CacheReader, *, dtype: torch.dtype = torch.float32) -> "PictureSource":
        """The same source, its captions drawn as the embeddings of a cache."""
        return replace(self, texts=TextRows(self.prompts, cache, dtype))


@dataclass(frozen=True)
class CaptionedLatents:
    """Latents of shards on disk, drawn with replacement; `ends` are the running counts of their samples."""

    paths: tuple[Path, ...]
    ends: tuple[int, ...]
    texts: TextRows
    skipped: tuple[str, ...] = ()

    has_images = True

    @property
    def prompts(self) -> PromptSet:
        """All prompts, in the order of their cache."""
        return self.texts.prompts

    def draw(
        self, batch_size: int, generator: torch.Generator, *, size_px: tuple[int, int] | None = None
    ) -> tuple[Tensor, list[str] | TextCondition]:
        """Latents (B, C, H, W) in float32 and B prompts: texts, or their cached embeddings.

        Raises:
            DataError: `size_px` is given: the size of latents is what it is.
        """
        if size_px is not None:
            raise DataError(f"cached latents have one size, and {size_px} was asked for; leave data.resolutions out")
        index = draw_indices(self.ends[-1], batch_size, generator).tolist()
        return torch.cat([self._latent(i) for i in index]).float(), self.texts.take(index)

    def _latent(self, index: int) -> Tensor:
        """(1, C, H, W)."""
        from safetensors import safe_open

        shard = bisect.bisect_right(self.ends, index)
        row = index - (self.ends[shard - 1] if shard else 0)
        with safe_open(self.paths[shard], framework="pt") as file:
            return file.get_slice("latents")[row : row + 1]

    def draw_size(self, _generator: torch.Generator) -> None:
        """None: the latents have one size."""

    def preview(self, count: int) -> list[str] | TextCondition:
        """The first `count` prompts, from the start again where there are fewer."""
        return self.texts.first(count)

    def with_cache(self, cache: CacheReader, *, dtype: torch.dtype = torch.float32) -> "CaptionedLatents":
        """The same source, its prompts drawn as the embeddings of a cache."""
        return replace(self, texts=TextRows(self.prompts, cache, dtype))


def open_latents(paths: list[Path], latent_shape: tuple[int, ...], cache: str | None) -> CaptionedLatents:
    """Shards with `latents` (N, C, H, W) and, in their metadata, `prompts`: a JSON list of N texts.

    Raises:
        DataError: a shard is damaged, of another shape, or without as many prompts as latents.
    """
    from safetensors import SafetensorError, safe_open

    counts: list[int] = []
    prompts: list[str] = []
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                shape = file.get_slice("latents").get_shape()
                texts = json.loads((file.metadata() or {}).get("prompts", "null"))
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"{path} is no shard of latents and prompts: {error}") from None
        if tuple(shape[1:]) != tuple(latent_shape):
            wanted = ", ".join(map(str, latent_shape))
            raise DataError(f"{path} has latents {shape}; this teacher at its size needs (N, {wanted})")
        if not isinstance(texts, list) or len(texts) != shape[0] or not all(isinstance(text, str) for text in texts):
            has = f"{len(texts)} values" if isinstance(texts, list) else "none"
            raise DataError(
                f"{path} needs as many prompts as latents, {shape[0]}, as a JSON list of texts under `prompts` in its "
                f"metadata; it has {has}"
            )
        counts.append(shape[0])
        prompts += texts
    return CaptionedLatents(tuple(paths), tuple(accumulate(counts)), open_texts(PromptSet.pack(prompts), cache))


class Captioned(Settings):
    """Pictures with captions, or latents with prompts."""

    type: Literal["captioned"] = "captioned"
    has_images: ClassVar[bool] = True
    path: str = Field(
        description="folder with metadata.jsonl or pictures beside their .txt; .tar, .parquet or .safetensors shards"
    )
    column: str | None = Field(None, description="field of the caption; None takes prompt, caption or text")
    image_column: str = Field("image", description="parquet column with the pictures' bytes")
    cache: str | None = Field(None, description="folder of cached embeddings of the captions")
    cache_storage: Storage = Field("fp8", description="of cached embeddings: fp8 with a scale a token, or bf16")
    resolutions: tuple[Resolution, ...] = Field(
        (), description="width x height in pixels of each aspect bucket, such as 1360x768; none = the teacher's size"
    )

    def check_source(self) -> None:
        """Raise DataError where there is nothing at the path."""
        if not Path(self.path).expanduser().exists():
            raise DataError(f"data.path {self.path} does not exist; name a folder or file of captioned pictures")

    def open(self, space: Space) -> PictureSource | CaptionedLatents:
        """The pictures or latents, with captions as embeddings where their cache is complete, else as texts.

        Raises:
            DataError: the teacher takes no prompts or not these resolutions, the data cannot be read, or the cache is
                of other captions.
            MissingExtraError: a package that reads them is not installed.
        """
        check_space(space, self.resolutions)
        root = Path(self.path).expanduser()
        self.check_source()
        if shards := shards_of(root, ".safetensors"):
            if self.resolutions:
                raise DataError("data.resolutions: cached latents have one size; leave the key out")
            return open_latents(shards, space.latent_shape, self.cache)
        found = open_pictures(root, column=self.column, image_column=self.image_column)
        height, width = (side * space.factor for side in space.latent_shape[-2:])
        return PictureSource(
            pictures=found.pictures,
            texts=open_texts(found.captions, self.cache),
            space=space,
            size_px=(width, height),
            sizes=tuple(map(parse_resolution, self.resolutions)),
            skipped=list(found.without_caption),
        )
