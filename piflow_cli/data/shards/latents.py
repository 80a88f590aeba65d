"""Latents of a data set on disk: what they are of, which shards are whole, and whether all are there.

`latents-NNNNN.safetensors` holds `latents` (N, C, *S) with `labels` (N,) or, in its metadata, `prompts`; a card of
the same name says what it is of, and `index.json` what all are. Without these two files a folder is read all the same.

Shapes: N latents of a shard, C latent channels, S spatial dims (H, W or T, H, W).
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from piflow_cli.core.settings import Settings
from piflow_cli.errors import DataError
from piflow_cli.io.checksums import file_sha256
from piflow_cli.io.tensors.digests import may_be_same

SHARD_SIZE, VIDEOS_A_SHARD = 1024, 32
"""Pictures, or videos, whose latents are in memory at a time."""
INDEX = "index.json"
AGAIN = "Run `piflow distill ... --cache-only` again, or name another folder in data.latents."


class LatentIndex(Settings):
    """`index.json`: what a folder of latents is of.

    Args:
        encoder: fingerprint of what encodes.
        pictures_digest: of the names of all pictures in their order, with their labels or captions.
        num_pictures: how many.
        shape: (C, *S).
        shard_size: pictures a shard.
        class_names: what the data calls classes.
        fps: frames a second of videos; None of pictures.
    """

    format: Literal["piflow-latents"] = "piflow-latents"
    version: Literal[1] = 1
    encoder: str
    pictures_digest: str
    num_pictures: int
    shape: tuple[int, ...]
    shard_size: int
    class_names: dict[int, str] = Field(default_factory=dict)
    fps: int | None = None

    @property
    def num_shards(self) -> int:
        """Of the whole folder."""
        return -(-self.num_pictures // self.shard_size)

    def rows(self, shard: int) -> range:
        """The pictures of a shard."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.num_pictures))

    def identity(self) -> str:
        """A digest of all that decides what the shards hold."""
        parts = [self.encoder, self.pictures_digest, self.num_pictures, self.shape, self.shard_size]
        parts += [self.fps] if self.fps is not None else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class LatentCard(Settings):
    """The card of a shard: what it is of, what was left out of it, and the sum that says whether it is whole."""

    of: str
    shard: int
    kept: int
    left_out: tuple[tuple[str, str], ...]
    bytes: int
    sha256: str


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard; its card ends in .json."""
    return folder / f"latents-{shard:05d}.safetensors"


def read_index(folder: Path) -> LatentIndex | None:
    """What the latents of a folder are of, None where nothing says it.

    Raises:
        DataError: `index.json` is damaged, or of something else.
    """
    try:
        return LatentIndex.model_validate_json((folder / INDEX).read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        raise DataError(f"{folder / INDEX} is no index of latents: {str(error).splitlines()[0]}. {AGAIN}") from None


def read_card(folder: Path, index: LatentIndex, shard: int, *, verify: bool) -> LatentCard | None:
    """The card of a shard that is whole, None where it is absent, of something else, or damaged.

    Args:
        verify: compare its checksum, which reads it; False compares its size only.
    """
    path = shard_path(folder, shard)
    try:
        card = LatentCard.model_validate_json(path.with_suffix(".json").read_bytes())
        if (card.of, card.shard, card.bytes) != (index.identity(), shard, os.stat(path).st_size):
            return None
    except (OSError, ValidationError):
        return None
    return card if not verify or file_sha256(path) == card.sha256 else None


def missing_shards(folder: Path, index: LatentIndex, *, verify: bool) -> list[int]:
    """Shards that are absent, of something else, or damaged; `verify` as for `read_card`."""
    return [shard for shard in range(index.num_shards) if read_card(folder, index, shard, verify=verify) is None]


def check_same(folder: Path, index: LatentIndex, wanted: LatentIndex) -> None:
    """Raise DataError unless the latents in a folder are the wanted ones; the message says what differs."""
    pairs = {
        "number of pictures": (index.num_pictures, wanted.num_pictures),
        "pictures, labels or captions": (index.pictures_digest[:12], wanted.pictures_digest[:12]),
        "shape": (index.shape, wanted.shape),
        "frames a second": (index.fps, wanted.fps),
        "pictures a shard": (index.shard_size, wanted.shard_size),
    }
    different = [f"{name} {there} there, {here} wanted" for name, (there, here) in pairs.items() if there != here]
    if not may_be_same(index.encoder, wanted.encoder):
        different.append(f"autoencoder {index.encoder} there, {wanted.encoder} wanted")
    if different:
        raise DataError(
            f"{folder} holds other latents: {'; '.join(different)}. Name another folder in data.latents, or remove "
            "this one."
        )


def check_encoder(folder: Path, encoder: str) -> None:
    """Raise DataError where a folder says that its latents were made by another autoencoder."""
    index = read_index(folder)
    if index is not None and not may_be_same(index.encoder, encoder):
        raise DataError(
            f"the latents in {folder} were encoded by another autoencoder ({index.encoder}) than this teacher's "
            f"({encoder}): the student would learn from what the teacher does not know. Encode them again."
        )


def check_complete(folder: Path) -> LatentIndex | None:
    """The index of a folder whose shards are all there, None where nothing says how many there should be.

    Raises:
        DataError: some are missing, or of something else.
    """
    index = read_index(folder)
    if index is None:
        return None
    missing = missing_shards(folder, index, verify=False)
    if missing:
        shown = ", ".join(map(str, missing[:4])) + (", ..." if len(missing) > 4 else "")
        raise DataError(f"{folder} lacks {len(missing)} of {index.num_shards} shards of latents ({shown}). {AGAIN}")
    return index


def is_complete(folder: Path) -> bool:
    """Whether there are latents of which no shard is missing.

    Raises:
        DataError: `index.json` is damaged.
    """
    index = read_index(folder)
    return index is not None and not missing_shards(folder, index, verify=False)
