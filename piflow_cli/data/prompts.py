"""Text-to-image without pictures: prompts from a file, drawn as text or as the embeddings that were cached of them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field

from piflow_cli.core.conditions import Prompt, TextCondition, join_conditions
from piflow_cli.core.interfaces import DataSource, Draw, PromptFacts, Space
from piflow_cli.core.settings import Settings
from piflow_cli.data.embeddings.cache import CacheReader, open_if_complete
from piflow_cli.data.embeddings.codec import Storage
from piflow_cli.data.files.prompts import PromptSet, check_prompts, find_prompt_shards, is_on_hub, read_prompts
from piflow_cli.data.files.references import (
    REFERENCE_SIZE,
    REFERENCES,
    InstructionSet,
    RowsOfPrompts,
    read_instructions,
)
from piflow_cli.data.noise import draw_indices, draw_rows
from piflow_cli.errors import DataError
from piflow_cli.io.texts.names import user_path
from piflow_cli.io.zoo import in_zoo, zoo_entries

EMBEDDED_LIST = "prompts.jsonl"
RESOLUTION = re.compile(r"([1-9]\d*)x([1-9]\d*)")


def parse_resolution(text: str) -> tuple[int, int]:
    """Width and height in pixels of a text such as 1360x768.

    Raises:
        ValueError: it is written in another way.
    """
    match = RESOLUTION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no resolution; write width x height in pixels, such as 1360x768")
    return int(match[1]), int(match[2])


def _check_resolution(text: str) -> str:
    parse_resolution(text)
    return text


def _check_limit(limit: int | None) -> int | None:
    if limit == 0:
        raise ValueError("0 leaves no prompts; N takes the first N, -N the last N")
    return limit


Resolution = Annotated[str, AfterValidator(_check_resolution)]
Limit = Annotated[int | None, AfterValidator(_check_limit)]


@dataclass(frozen=True)
class TextRows:
    """Prompts by row: as they are written, or encoded where a cache holds them.

    Args:
        prompts: N texts, which may be about reference pictures.
        cache: their embeddings in the same order, or None.
        dtype: of the embeddings drawn.
    """

    prompts: RowsOfPrompts
    cache: CacheReader | None = None
    dtype: torch.dtype = torch.float32

    def take(self, index: Sequence[int]) -> list[Prompt] | TextCondition:
        """B prompts by row."""
        if self.cache is None:
            return [self.prompts[i] for i in index]
        return join_conditions(self.cache.rows(index, dtype=self.dtype))

    def read(self, draw: Draw) -> list[Prompt] | TextCondition:
        """The prompts of a draw."""
        return self.take(draw.rows)

    def first(self, count: int) -> list[Prompt] | TextCondition:
        """The first `count` prompts, from the start again where there are fewer."""
        return self.take([i % len(self.prompts) for i in range(count)])

    def first_texts(self, count: int) -> list[str]:
        """The same as they are written."""
        return [self.prompts.texts[i % len(self.prompts)] for i in range(count)]

    def first_asked(self, count: int) -> Iterator[Prompt]:
        """The same with their reference pictures, read one after the other; none of prompts that have no pictures."""
        if isinstance(self.prompts, InstructionSet):
            yield from (self.prompts[i % len(self.prompts)] for i in range(count))


def draw_size(sizes: Sequence[tuple[int, int]], generator: torch.Generator) -> tuple[int, int] | None:
    """Width and height in pixels of the next batch, drawn uniformly; None, and nothing drawn, where there are none."""
    return sizes[int(draw_indices(len(sizes), 1, generator))] if sizes else None


class TextSource(DataSource):
    """A source whose samples have prompts: the first of these are what previews show."""

    texts: TextRows

    @property
    def prompts(self) -> RowsOfPrompts:
        """All prompts, in the order of their cache."""
        return self.texts.prompts

    def preview(self, count: int) -> list[Prompt] | TextCondition:
        """The first `count` prompts, from the start again where there are fewer."""
        return self.texts.first(count)

    def preview_prompts(self, count: int) -> list[str]:
        """The same as they are written."""
        return self.texts.first_texts(count)

    def preview_asked(self, count: int) -> Iterator[Prompt]:
        """The same with their reference pictures."""
        return self.texts.first_asked(count)


@dataclass(frozen=True)
class PromptSource(TextSource):
    """Prompts drawn with replacement.

    Args:
        texts: the prompts.
        sizes: width and height in pixels of each aspect bucket; none leaves the teacher's own size.
        skipped: names of files that are not for training.
    """

    texts: TextRows
    sizes: tuple[tuple[int, int], ...] = ()
    skipped: tuple[str, ...] = ()

    has_images = False

    @property
    def contents(self) -> str:
        """How many prompts."""
        about = " about reference pictures" if isinstance(self.prompts, InstructionSet) else ""
        return f"{len(self.prompts):,} prompts{about}, without pictures"

    @property
    def reader(self) -> TextRows:
        """Reads prompts, or their cached embeddings."""
        return self.texts

    @property
    def reads_files(self) -> bool:
        """Whether embeddings or reference pictures are read."""
        return self.texts.cache is not None or isinstance(self.prompts, InstructionSet)

    def plan(self, batch_size: int, generator: torch.Generator, *, size_px: tuple[int, int] | None = None) -> Draw:
        """Prompts drawn with replacement; without pictures the size changes nothing."""
        return replace(draw_rows(len(self.prompts), batch_size, generator), size_px=size_px)

    def encode(self, batch: list[Prompt] | TextCondition) -> tuple[None, list[Prompt] | TextCondition]:
        """No latents, and B prompts, as they were read."""
        return None, batch

    def draw_size(self, generator: torch.Generator) -> tuple[int, int] | None:
        """Width and height in pixels of the next batch, or None for the teacher's own size."""
        return draw_size(self.sizes, generator)

    def with_cache(self, cache: CacheReader, *, dtype: torch.dtype = torch.float32) -> "PromptSource":
        """The same source, its prompts drawn as the embeddings of a cache."""
        return replace(self, texts=TextRows(self.prompts, cache, dtype))


def check_space(space: Space, resolutions: Sequence[str]) -> None:
    """Raise DataError unless a teacher's space takes prompts, and pictures of these resolutions."""
    if space.num_classes is not None:
        raise DataError(
            "this teacher takes class labels and no prompts; set data.type to noise, images or latents, or "
            "teacher.type to a text-to-image family"
        )
    for resolution in resolutions:
        try:
            space.latent_shape_of(*parse_resolution(resolution))
        except DataError as error:
            raise DataError(f"data.resolutions: {resolution}: {error}") from None


def open_texts(prompts: RowsOfPrompts, cache: str | None) -> TextRows:
    """Prompts with their cache, where it is complete.

    Raises:
        DataError: the cache is of other prompts.
    """
    return TextRows(prompts, open_if_complete(user_path(cache), prompts) if cache else None)


def facts_of(prompts: PromptSet) -> PromptFacts:
    """How many prompts there are, and how long on average."""
    return PromptFacts(len(prompts), len(prompts.data.decode()) / len(prompts))


def locate_prompts(path: str) -> str:
    """The path itself, or of `zoo:NAME` the list of prompts that ships.

    Raises:
        DataError: that entry ships none.
    """
    embedded = in_zoo(path, EMBEDDED_LIST)
    if embedded is None:
        return path
    if not embedded.is_file():
        raise DataError(f"data.path {path} ships no prompts; {', '.join(zoo_entries(EMBEDDED_LIST)) or 'nothing'} does")
    return str(embedded)


class Prompts(Settings):
    """Prompts without pictures: every trajectory starts at noise."""

    type: Literal["prompts"] = "prompts"
    has_images: ClassVar[bool] = False
    path: str = Field(
        description="a .txt, .jsonl, .csv or .parquet, a folder of them, zoo:NAME, or owner/name of a set on the hub"
    )
    column: str | None = Field(None, description="field of the prompt; None takes prompt, caption or text")
    limit: Limit = Field(None, description="N takes the first N prompts, -N the last N, None all")
    cache: str | None = Field(None, description="folder of cached embeddings")
    cache_storage: Storage = Field("fp8", description="of cached embeddings: fp8 with a scale a token, or bf16")
    resolutions: tuple[Resolution, ...] = Field(
        (), description="width x height in pixels of each aspect bucket, such as 1360x768; none = the teacher's size"
    )
    references: str | None = REFERENCES
    reference_size: Resolution | None = REFERENCE_SIZE

    encodes_pictures: ClassVar[bool] = False
    latents: ClassVar[None] = None

    @property
    def sizes_px(self) -> tuple[tuple[int, int], ...]:
        """Width and height in pixels of each aspect bucket."""
        return tuple(map(parse_resolution, self.resolutions))

    @property
    def references_px(self) -> tuple[tuple[int, int] | None, ...]:
        """One a prompt, where there are any."""
        return () if self.references is None else (self.reference_size and parse_resolution(self.reference_size),)

    def prompt_facts(self, *, frames: int = 1) -> PromptFacts:  # noqa: ARG002
        """Of the prompts where they are on this machine; else `limit` says how many at most.

        Raises:
            DataError: they are here and cannot be read.
        """
        place = locate_prompts(self.path)
        if user_path(place).exists():
            return facts_of(self._read(place).texts)
        return PromptFacts(abs(self.limit) if self.limit is not None else None, None)

    def source_paths(self) -> dict[str, Path]:
        """The local files and folders that its samples are read from, by the key that names them."""
        return {"path": user_path(locate_prompts(self.path))}

    def check_source(self) -> None:
        """Raise DataError where the first prompt cannot be read, or a reference picture is not there.

        A data set on the hub is not fetched for it.
        """
        check_prompts(locate_prompts(self.path), self.column)
        if self.references is not None:
            self._read(locate_prompts(self.path))

    def _read(self, path: str) -> RowsOfPrompts:
        """The prompts at a path, with their reference pictures where these are asked for; errors as `open`."""
        if self.references is None:
            return read_prompts(path, column=self.column, limit=self.limit)
        (size_px,) = self.references_px
        return read_instructions(path, name=self.references, column=self.column, limit=self.limit, size_px=size_px)

    def open(self, space: Space) -> PromptSource:
        """The prompts: as embeddings where the cache is complete, else as texts.

        Raises:
            DataError: the teacher takes no prompts or not these resolutions, the prompts cannot be read, or the cache
                is of others.
            MissingExtraError: a package that reads them is not installed.
        """
        check_space(space, self.resolutions)
        path = locate_prompts(self.path)
        prompts = self._read(path)
        skipped = [] if is_on_hub(path) else find_prompt_shards(user_path(path))[1]
        return PromptSource(open_texts(prompts, self.cache), self.sizes_px, tuple(skipped))
