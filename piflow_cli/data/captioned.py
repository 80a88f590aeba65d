"""Text-to-image with pictures, or videos: encoded as they are drawn, or latents cached with prompts.

Shapes: B batch, N latents of a shard, C latent channels, S spatial dims (H, W or T, H, W).
"""

import json
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import Draw, PromptFacts, Space
from piflow_cli.core.settings import Settings
from piflow_cli.data.embeddings.cache import CacheReader
from piflow_cli.data.embeddings.codec import Storage
from piflow_cli.data.files.media import medium_of
from piflow_cli.data.files.pictures import CaptionedPictures, open_pictures
from piflow_cli.data.files.prompts import PromptSet
from piflow_cli.data.files.references import REFERENCE_SIZE, REFERENCES, InstructionSet, RowsOfPrompts
from piflow_cli.data.latents import LatentReader, read_shard
from piflow_cli.data.noise import draw_rows
from piflow_cli.data.prompts import (
    Resolution,
    TextRows,
    TextSource,
    check_space,
    draw_size,
    facts_of,
    open_texts,
    parse_resolution,
)
from piflow_cli.data.reading import FEW_PICTURES, LeftOut, PictureBatch, PictureReader, encode_batch, plan_pictures
from piflow_cli.data.shards.encoding import PictureSet
from piflow_cli.data.shards.latents import check_complete, is_complete
from piflow_cli.errors import DataError
from piflow_cli.io.folders import shards_of
from piflow_cli.io.texts.names import user_path


@dataclass(frozen=True)
class PictureSource(TextSource):
    """Captioned pictures, or videos, drawn with replacement; `space` encodes them.

    Args:
        reader: reads pictures, with their captions as texts or as cached embeddings.
        space: what the teacher works in.
        sizes: width and height of each aspect bucket.
        left_out: pictures without a caption, files that are not read, and what did not decode.
    """

    reader: PictureReader
    space: Space
    sizes: tuple[tuple[int, int], ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)

    has_images = True

    @property
    def contents(self) -> str:
        """How many pictures or videos."""
        what = medium_of(self.reader.frames).name
        about = " and reference pictures" if isinstance(self.prompts, InstructionSet) else ""
        return f"{len(self.prompts):,} {what} with captions{about}"

    @property
    def reads_files(self) -> bool:
        """Whether there are more than a few."""
        return len(self.reader.pictures) > FEW_PICTURES

    @property
    def texts(self) -> TextRows:
        """The captions."""
        return self.reader.rows

    @property
    def skipped(self) -> list[str]:
        """What was left out so far."""
        return self.left_out.names

    def plan(self, batch_size: int, generator: torch.Generator, *, size_px: tuple[int, int] | None = None) -> Draw:
        """Pictures drawn with replacement."""
        return plan_pictures(len(self.prompts), batch_size, generator, size_px)

    def encode(self, batch: PictureBatch) -> tuple[Tensor, list[str] | TextCondition]:
        """Latents (B, C, *S) and B captions: texts, or their cached embeddings.

        Raises:
            DataError: more than half of the pictures do not decode.
        """
        self.left_out.add(batch)
        return encode_batch(batch, self.space)

    def draw_size(self, generator: torch.Generator) -> tuple[int, int] | None:
        """Width and height in pixels of the next batch, or None for the teacher's own size."""
        return draw_size(self.sizes, generator)

    def with_cache(self, cache: CacheReader, *, dtype: torch.dtype = torch.float32) -> "PictureSource":
        """The same source, its captions drawn as the embeddings of a cache."""
        return replace(self, reader=replace(self.reader, rows=TextRows(self.prompts, cache, dtype)))


@dataclass(frozen=True)
class CaptionedLatents(TextSource):
    """Latents of shards on disk with their prompts, drawn with replacement."""

    reader: LatentReader

    has_images = True
    reads_files = True

    @property
    def contents(self) -> str:
        """How many latents."""
        return f"{len(self.prompts):,} latents with prompts"

    @property
    def texts(self) -> TextRows:
        """The prompts."""
        return self.reader.rows

    def plan(self, batch_size: int, generator: torch.Generator, *, size_px: tuple[int, int] | None = None) -> Draw:
        """Latents drawn with replacement.

        Raises:
            DataError: `size_px` is given: the size of latents is what it is.
        """
        if size_px is not None:
            raise DataError(f"cached latents have one size, and {size_px} was asked for; leave data.resolutions out")
        return draw_rows(len(self.prompts), batch_size, generator)

    def encode(self, batch: tuple[Tensor, list[str] | TextCondition]) -> tuple[Tensor, list[str] | TextCondition]:
        """Latents (B, C, *S) in float32 and B prompts, as they were read: texts, or their cached embeddings."""
        return batch

    def draw_size(self, _generator: torch.Generator) -> None:
        """None: the latents have one size."""

    def with_cache(self, cache: CacheReader, *, dtype: torch.dtype = torch.float32) -> "CaptionedLatents":
        """The same source, its prompts drawn as the embeddings of a cache."""
        return replace(self, reader=replace(self.reader, rows=TextRows(self.prompts, cache, dtype)))


def open_latents(paths: list[Path], latent_shape: tuple[int, ...], cache: str | None) -> CaptionedLatents:
    """Shards with `latents` (N, C, *S) and, in their metadata, `prompts`: a JSON list of N texts.

    Raises:
        DataError: a shard is damaged, of another shape, or without as many prompts as latents.
    """
    counts: list[int] = []
    prompts: list[str] = []
    for path in paths:
        count, metadata = read_shard(path, latent_shape, what="latents and prompts")
        try:
            texts = json.loads(metadata.get("prompts", "null"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is no shard of latents and prompts: {error}") from None
        if not isinstance(texts, list) or len(texts) != count or not all(isinstance(text, str) for text in texts):
            has = f"{len(texts)} values" if isinstance(texts, list) else "none"
            raise DataError(
                f"{path} needs as many prompts as latents, {count}, as a JSON list of texts under `prompts` in its "
                f"metadata; it has {has}"
            )
        counts.append(count)
        prompts += texts
    texts = open_texts(PromptSet.pack(prompts), cache)
    return CaptionedLatents(LatentReader(tuple(paths), tuple(accumulate(counts)), texts))


class Captioned(Settings):
    """Pictures or videos with captions, or latents with prompts."""

    type: Literal["captioned"] = "captioned"
    has_images: ClassVar[bool] = True
    path: str = Field(
        description="folder of pictures or videos, with captions or metadata, or of .tar, .parquet or .safetensors"
    )
    column: str | None = Field(None, description="field of the caption; None takes prompt, caption or text")
    image_column: str = Field("image", description="parquet column with the bytes of pictures or videos")
    cache: str | None = Field(None, description="folder of cached embeddings of the captions")
    cache_storage: Storage = Field("fp8", description="of cached embeddings: fp8 with a scale a token, or bf16")
    latents: str | None = Field(
        None, description="folder that pictures or videos are encoded into, once; unset: every step"
    )
    resolutions: tuple[Resolution, ...] = Field(
        (), description="width x height in pixels of each aspect bucket, such as 1360x768; none = the teacher's size"
    )
    references: str | None = REFERENCES
    reference_size: Resolution | None = REFERENCE_SIZE

    @property
    def sizes_px(self) -> tuple[tuple[int, int], ...]:
        """Width and height in pixels of each aspect bucket."""
        return tuple(map(parse_resolution, self.resolutions))

    @property
    def references_px(self) -> tuple[tuple[int, int] | None, ...]:
        """One a prompt, where there are any."""
        return () if self.references is None else (self.reference_size and parse_resolution(self.reference_size),)

    @property
    def encodes_pictures(self) -> bool:
        """Whether pictures are encoded as they are drawn; latents were encoded before."""
        return self.latents is None and not self._shards()

    def prompt_facts(self, *, frames: int = 1) -> PromptFacts:
        """Of the captions in a folder on this machine; of others nothing is known without reading them all.

        Raises:
            DataError: they are here and cannot be read.
        """
        root = user_path(self.path)
        if not root.is_dir() or self._shards():
            return PromptFacts(None, None)
        return facts_of(self._found(frames).captions)

    def _shards(self) -> list[Path]:
        """Shards of latents."""
        root = user_path(self.path)
        return shards_of(root, ".safetensors") if root.exists() else []

    def source_paths(self) -> dict[str, Path]:
        """The local files and folders that its samples are read from, by the key that names them."""
        return {"path": user_path(self.path)}

    def check_source(self) -> None:
        """Raise DataError where there is nothing at the path."""
        if not user_path(self.path).exists():
            raise DataError(
                f"data.path {self.path} does not exist; name a folder or file of captioned pictures or videos"
            )

    def open(self, space: Space) -> PictureSource | CaptionedLatents:
        """The pictures or latents, with captions as embeddings where their cache is complete, else as texts.

        Raises:
            DataError: the teacher takes no prompts or not these resolutions, the data cannot be read, or the cache is
                of other captions.
            MissingExtraError: a package that reads them is not installed.
        """
        check_space(space, self.resolutions)
        encoded = user_path(self.latents) if self.latents is not None else None
        if encoded is not None and self.references is not None:
            raise DataError("data.references: data.latents keep no reference pictures; leave one of the two keys out")
        if encoded is not None and self.resolutions:
            raise DataError("data.resolutions: data.latents are of one size; leave one of the two keys out")
        root = encoded if encoded is not None and is_complete(encoded) else user_path(self.path)
        self.check_source()
        if shards := shards_of(root, ".safetensors"):
            if self.resolutions or self.references is not None:
                key = "resolutions: cached latents have one size" if self.resolutions else "references: they name none"
                raise DataError(f"data.{key}; leave the key out")
            if root.is_dir():
                check_complete(root)
            return open_latents(shards, space.latent_shape, self.cache)
        found = self.pictures(space)
        return PictureSource(reader=found.reader, space=space, sizes=self.sizes_px, left_out=found.left_out)

    def _found(self, frames: int) -> CaptionedPictures:
        """The pictures, or videos for more than one of `frames`, with their captions, as they lie there."""
        keys = {"column": self.column, "image_column": self.image_column, "references": self.references}
        return open_pictures(user_path(self.path), **keys, medium=medium_of(frames))

    def pictures(self, space: Space) -> PictureSet:
        """The pictures with their captions, as embeddings where their cache is complete; errors as `open`."""
        root, found = user_path(self.path), self._found(space.frames)
        texts: RowsOfPrompts = found.captions
        if found.references is not None:
            about = zip(found.captions, found.references, strict=True)
            texts = InstructionSet.pack(about, size_px=self.references_px[0])
        height, width = (side * space.factor for side in space.latent_shape[-2:])
        cache = None if self.latents is not None else self.cache  # of the pictures that are encoded, which may be fewer
        return PictureSet(
            reader=PictureReader.of_space(space, found.pictures, open_texts(texts, cache), (width, height)),
            root=root,
            texts=found.captions,
            left_out=LeftOut([*(f"{name} (no caption)" for name in found.without_caption), *found.unread]),
        )
