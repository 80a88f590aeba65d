"""A folder of encoded prompts: what it is of, which of its shards are whole, and reading prompts of it in any order.

    index.json                      what the whole is of
    special.safetensors             named prompts, such as the empty one
    shard-00012.safetensors, .json  prompts 12 * shard_size on (`embedding_codec.py`), and a card, written last
    locks/                          who builds what just now

Building is in `cache_building.py`. Shapes: T tokens, D embedding width.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator

from piflow_cli.core.conditions import Prompt, TextCondition
from piflow_cli.core.settings import Settings
from piflow_cli.data.embeddings.codec import Storage, read_row
from piflow_cli.data.files.references import RowsOfPrompts
from piflow_cli.errors import DataError
from piflow_cli.io.bounds import MAX_SHARDS, MAX_TEXT_BYTES, MAX_WIDTH
from piflow_cli.io.checksums import file_sha256
from piflow_cli.io.regular import read_regular

SHARD_SIZE = 256
"""Prompts a shard: some hundred MB at FLUX's 512 tokens of width 4096 in fp8."""
FORMAT_VERSION = 1
READING_THREADS = 8
AGAIN = "Run the caching step again (piflow distill --cache-only): it builds only what is missing or damaged."


@dataclass(frozen=True)
class CachePlan:
    """What a cache is to hold.

    Args:
        prompts: every prompt, in order, with the reference pictures that it may be about.
        fingerprint: names the text encoder and what was asked of it; another one makes another cache.
        storage: "fp8" (float8 with a scale a token) or "bf16".
        specials: further prompts to be found by their text, such as "" or a negative prompt.
        pictured: further prompts about pictures, by the names that they are to be found by; each is read when called.
        shard_size: prompts a shard; a kill costs at most one shard a process.
    """

    prompts: RowsOfPrompts
    fingerprint: str
    storage: Storage = "fp8"
    specials: tuple[str, ...] = ()
    pictured: Mapping[str, Callable[[], Prompt]] = field(default_factory=dict)
    shard_size: int = SHARD_SIZE
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", self.prompts.digest())

    @property
    def num_shards(self) -> int:
        """Shards of the whole cache."""
        return -(-len(self.prompts) // self.shard_size)

    @property
    def names(self) -> tuple[str, ...]:
        """What the further prompts are found by."""
        return tuple(dict.fromkeys((*self.specials, *self.pictured)))

    def named(self, name: str) -> Prompt:
        """A further prompt.

        Raises:
            PictureError: one of its pictures cannot be read or used.
        """
        return self.pictured[name]() if name in self.pictured else name

    def shard_prompts(self, shard: int) -> RowsOfPrompts:
        """The prompts of one shard."""
        first = shard * self.shard_size
        return self.prompts.between(first, min(first + self.shard_size, len(self.prompts)))


class CacheIndex(Settings):
    """`index.json`: what a cache is of."""

    format_version: Literal[1] = FORMAT_VERSION
    fingerprint: str
    storage: Storage
    prompts_digest: str
    num_prompts: int = Field(ge=0)
    shard_size: int = Field(ge=1)
    embed_width: int = Field(ge=1, le=MAX_WIDTH)
    further_widths: tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH)], ...] = ()
    specials: tuple[str, ...]
    specials_bytes: int
    specials_sha256: str

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.num_shards > MAX_SHARDS:
            raise ValueError(f"{self.num_shards} shards are more than a cache has")
        return self

    @property
    def num_shards(self) -> int:
        """Shards of the whole cache."""
        return -(-self.num_prompts // self.shard_size)

    @property
    def widths(self) -> tuple[int, ...]:
        """D of every text encoder's embeddings."""
        return (self.embed_width, *self.further_widths)

    def shard_count(self, shard: int) -> int:
        """Prompts of one shard."""
        return min(self.shard_size, self.num_prompts - shard * self.shard_size)


class ShardCard(Settings):
    """`shard-NNNNN.json`: what a shard is of, and the sum that says whether it is whole."""

    cache: str
    first: int
    count: int
    prompts_digest: str
    bytes: int
    sha256: str


def identity(of: CachePlan | CacheIndex) -> str:
    """A digest of all that decides what the shards of a cache hold."""
    digest, count = (of.digest, len(of.prompts)) if isinstance(of, CachePlan) else (of.prompts_digest, of.num_prompts)
    parts = [FORMAT_VERSION, of.fingerprint, of.storage, digest, count, of.shard_size]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard; its card ends in .json."""
    return folder / f"shard-{shard:05d}.safetensors"


def special_path(folder: Path) -> Path:
    """The file of the further prompts."""
    return folder / "special.safetensors"


def read_index(folder: Path) -> CacheIndex | None:
    """What the cache in a folder is of, or None where there is none.

    Raises:
        DataError: `index.json` is damaged, or of another version of the format.
    """
    path = folder / "index.json"
    try:
        return CacheIndex.model_validate_json(read_regular(path, max_bytes=MAX_TEXT_BYTES))
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        raise DataError(
            f"{path} is no index of cached embeddings of format {FORMAT_VERSION}: {error}. "
            "Remove the folder, or name another one in data.cache."
        ) from None


def check_same(folder: Path, index: CacheIndex, plan: CachePlan) -> None:
    """Raise DataError unless the cache in a folder is the planned one; the message says what differs."""
    pairs = {
        "number of prompts": (index.num_prompts, len(plan.prompts)),
        "prompts": (index.prompts_digest[:12], plan.digest[:12]),
        "text encoder": (index.fingerprint, plan.fingerprint),
        "storage": (index.storage, plan.storage),
        "prompts a shard": (index.shard_size, plan.shard_size),
    }
    different = [f"{name} {there} there, {wanted} wanted" for name, (there, wanted) in pairs.items() if there != wanted]
    if different:
        raise DataError(
            f"{folder} caches something else: {'; '.join(different)}. Name another folder in data.cache, or remove "
            "this one."
        )


def missing_shards(folder: Path, plan: CachePlan, *, verify: bool = True) -> list[int]:
    """Shards to be built: absent, of something else, or damaged.

    Args:
        verify: compare checksums, which reads every shard; False compares sizes only.

    Raises:
        DataError: the folder caches something else.
    """
    index = read_index(folder)
    if index is not None:
        check_same(folder, index, plan)
    return [shard for shard in range(plan.num_shards) if not is_whole(folder, plan, shard, verify=verify)]


def is_whole(folder: Path, plan: CachePlan, shard: int, *, verify: bool) -> bool:
    """Whether a shard is there with the planned prompts, and with `verify` whether its bytes are those once written."""
    prompts = plan.shard_prompts(shard)
    card = _whole_card(folder, shard, cache=identity(plan), count=len(prompts))
    if card is None or card.prompts_digest != prompts.digest():
        return False
    return not verify or file_sha256(shard_path(folder, shard)) == card.sha256


def _whole_card(folder: Path, shard: int, *, cache: str, count: int) -> ShardCard | None:
    """The card of a shard if it is of this cache and the file has the size on it."""
    path = shard_path(folder, shard)
    try:
        card = ShardCard.model_validate_json(read_regular(path.with_suffix(".json"), max_bytes=MAX_TEXT_BYTES))
        return card if (card.cache, card.count, card.bytes) == (cache, count, os.stat(path).st_size) else None
    except (OSError, ValidationError):
        return None


@dataclass(frozen=True)
class CacheReader:
    """A complete cache, read a prompt at a time in any order."""

    folder: Path
    index: CacheIndex

    def __len__(self) -> int:
        return self.index.num_prompts

    def rows(self, indices: Sequence[int], *, dtype: torch.dtype = torch.float32) -> list[TextCondition]:
        """Prompts by number, each (1, T, D) on the CPU without its padding and without guidance.

        Raises:
            DataError: a shard is damaged.
            IndexError: there is no such prompt.
        """
        for i in indices:
            if not 0 <= i < len(self):
                raise IndexError(f"prompt {i} of {len(self)}")
        places = [divmod(i, self.index.shard_size) for i in indices]
        with ThreadPoolExecutor(READING_THREADS) as pool:  # reading and decompressing leave the interpreter free
            return list(pool.map(lambda place: self._row(shard_path(self.folder, place[0]), place[1], dtype), places))

    def special(self, text: str, *, dtype: torch.dtype = torch.float32) -> TextCondition:
        """A prompt that was cached by its text, or by the name that it has with its pictures, (1, T, D).

        Raises:
            DataError: it was not, or its file is damaged.
        """
        if text not in self.index.specials:
            known = ", ".join(map(repr, self.index.specials)) or "none"
            raise DataError(f"{self.folder} does not cache the prompt {text!r} by its text; it has {known}. {AGAIN}")
        return self._row(special_path(self.folder), self.index.specials.index(text), dtype)

    def _row(self, path: Path, row: int, dtype: torch.dtype) -> TextCondition:
        try:
            return read_row(path, row, storage=self.index.storage, widths=self.index.widths, dtype=dtype)
        except (ValueError, DataError) as error:
            raise DataError(f"{path} is damaged at its prompt {row}: {error}. {AGAIN}") from None


def open_cache(folder: Path) -> CacheReader:
    """A complete cache; cards and file sizes are compared, no bytes are read.

    Raises:
        DataError: there is none, or shards are missing.
    """
    index = read_index(folder)
    if index is None:
        raise DataError(f"{folder} has no cached embeddings (no index.json). {AGAIN}")
    missing = _absent(folder, index)
    if missing:
        shown = ", ".join(map(str, missing[:4])) + (", ..." if len(missing) > 4 else "")
        raise DataError(f"{folder} lacks {len(missing)} of {index.num_shards} shards ({shown}). {AGAIN}")
    return CacheReader(folder, index)


def open_if_complete(folder: Path, prompts: RowsOfPrompts) -> CacheReader | None:
    """The cache of these prompts, or None while it is not complete.

    Raises:
        DataError: it is of other prompts, or its index is damaged.
    """
    index = read_index(folder)
    if index is None:
        return None
    if index.prompts_digest != prompts.digest():
        raise DataError(
            f"{folder} caches {index.num_prompts} other prompts than the {len(prompts)} of data.path, or other "
            "pictures that they are about. Name another folder in data.cache, or remove this one."
        )
    return None if _absent(folder, index) else CacheReader(folder, index)


def _absent(folder: Path, index: CacheIndex) -> list[int]:
    """Shards without a card of this cache or of another size than on it."""
    cache = identity(index)
    numbers = range(index.num_shards)
    return [n for n in numbers if _whole_card(folder, n, cache=cache, count=index.shard_count(n)) is None]
