"""Encoding pictures, or videos, to latents: processes share the work by locks; a shard is written whole or not at all.

Shapes: B pictures of a batch, N of a shard, C latent channels, S spatial dims (H, W or T, H, W).
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from piflow_cli.core.interfaces import Space
from piflow_cli.data.files.prompts import PromptSet
from piflow_cli.data.reading import Labels, LeftOut, PictureReader, as_images
from piflow_cli.data.shards.claims import build_together, claim, write_shard, writing
from piflow_cli.data.shards.latents import (
    INDEX,
    SHARD_SIZE,
    VIDEOS_A_SHARD,
    LatentCard,
    LatentIndex,
    check_same,
    missing_shards,
    read_card,
    read_index,
    shard_path,
)
from piflow_cli.errors import DataError
from piflow_cli.io.files import write_atomic

BATCH_SIZE = 16
"""Pictures that are encoded at a time; of videos one is."""
STORAGE = torch.float16
"""Latents are near 1: it keeps three digits of them, in half of float32's room."""
FOR = {"what": "latents", "key": "data.latents"}


@dataclass(frozen=True)
class PictureSet:
    """Pictures in their order, with what belongs to each.

    Args:
        reader: reads them.
        root: where they are.
        texts: captions, None where the reader's rows are labels.
        class_names: what the data calls classes.
        left_out: what was passed over when the set was listed.
        doubts: what may not be meant, in sentences.
    """

    reader: PictureReader
    root: Path
    texts: PromptSet | None = None
    class_names: dict[int, str] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)
    doubts: tuple[str, ...] = ()

    def digest(self) -> str:
        """Of all names, from the root on, and of what belongs to them."""
        hashed = hashlib.sha256()
        pictures = self.reader.pictures
        for i in range(len(pictures)):
            hashed.update(pictures.name(i).removeprefix(str(self.root)).encode(errors="surrogateescape") + b"\n")
        belongs = self.texts.digest() if self.texts is not None else json.dumps(self.reader.rows.values)
        hashed.update(belongs.encode())
        return hashed.hexdigest()

    def belonging(self, rows: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What a shard holds beside the latents of some rows: tensors and metadata."""
        if self.texts is not None:
            return {}, {"prompts": json.dumps([self.texts[row] for row in rows], ensure_ascii=False)}
        assert isinstance(self.reader.rows, Labels)
        return {"labels": self.reader.rows.take(rows).long()}, {}


@dataclass(frozen=True)
class LatentReport:
    """What encoding came to.

    Args:
        num_pictures: in the data set.
        built, kept, shared: shards that this process built, that were whole before, and that others built meanwhile.
        size_bytes: of all shards.
        left_out: pictures that do not decode, and why; and what was passed over when the set was listed.
    """

    num_pictures: int
    built: int
    kept: int
    shared: int
    size_bytes: int
    left_out: tuple[str, ...]
    doubts: tuple[str, ...]
    wall_s: float


def encode_shards(
    folder: Path,
    pictures: PictureSet,
    space: Space,
    *,
    encoder: str,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    verify: bool = True,
) -> LatentReport:
    """Encode every picture into shards of a folder; they are complete on return.

    Any number of processes may fill one folder. Each claims a shard at a time; at the end they wait for one another,
    and take over what a killed one left. A shard's latents are the same whoever encodes it.

    Args:
        folder: made if need be.
        pictures: what to encode.
        space: whose autoencoder encodes.
        encoder: fingerprint of the autoencoder.
        on_progress: called with the pictures done, by whomever, and all pictures.
        verify: compare the checksums of what is there; False compares sizes.

    Raises:
        DataError: the folder holds other latents, a latent is not finite, or more than half of the pictures, or all
            of a few, do not decode.
        StorageError: the folder cannot be written, or its disk is full.
    """
    started = time.perf_counter()
    videos = pictures.reader.frames > 1
    wanted = LatentIndex(
        encoder=encoder,
        pictures_digest=pictures.digest(),
        num_pictures=len(pictures.reader.pictures),
        shape=tuple(space.latent_shape),
        shard_size=min(SHARD_SIZE, VIDEOS_A_SHARD) if videos else SHARD_SIZE,
        class_names=pictures.class_names,
        fps=pictures.reader.fps if videos else None,
    )
    index = _prepare(folder, wanted)
    pending = missing_shards(folder, index, verify=verify)
    kept = index.num_shards - len(pending)
    built = _Builder(folder, index, pictures, space, on_progress).build(pending, verify=verify)
    on_progress(index.num_pictures, index.num_pictures)
    cards = [read_card(folder, index, shard, verify=False) for shard in range(index.num_shards)]
    if not any(card.kept for card in cards if card is not None):
        raise DataError(
            _none_usable(folder, [failure for card in cards if card is not None for failure in card.left_out])
        )
    failed = [f"{name} ({reason})" for card in cards if card is not None for name, reason in card.left_out]
    return LatentReport(
        num_pictures=index.num_pictures,
        built=built,
        kept=kept,
        shared=index.num_shards - kept - built,
        size_bytes=sum(os.stat(shard_path(folder, shard)).st_size for shard in range(index.num_shards)),
        left_out=(*pictures.left_out.names, *failed),
        doubts=pictures.doubts,
        wall_s=time.perf_counter() - started,
    )


def _none_usable(folder: Path, failures: list[tuple[str, str]]) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in failures[:4])
    return (
        f"none of the {len(failures)} files of data.path can be used: {shown}. Correct data.path, and remove {folder} "
        "or name another folder in data.latents."
    )


def _prepare(folder: Path, wanted: LatentIndex) -> LatentIndex:
    """The index of the folder, written where it is not yet; one process does, others wait."""
    with claim(folder, "index", wait=True, **FOR):
        index = read_index(folder)
        if index is not None:
            check_same(folder, index, wanted)
            return index
        if any(folder.glob("*.safetensors")):
            raise DataError(
                f"{folder} holds .safetensors files and no {INDEX}: they are nothing that was made here, and would be "
                "trained on as well. Name another folder in data.latents."
            )
        with writing(folder, **FOR):
            write_atomic(folder / INDEX, wanted.model_dump_json(indent=2))
        return wanted


@dataclass
class _Builder:
    """One process at work; `done` counts the pictures of whole shards."""

    folder: Path
    index: LatentIndex
    pictures: PictureSet
    space: Space
    on_progress: Callable[[int, int], None]
    done: int = 0

    def build(self, pending: Sequence[int], *, verify: bool) -> int:
        """Build the pending shards that nobody else builds; how many that were."""
        return build_together(
            self.folder,
            pending,
            path_of=lambda shard: shard_path(self.folder, shard),
            is_whole=lambda shard: read_card(self.folder, self.index, shard, verify=verify) is not None,
            build=self.shard,
            on_round=self._count,
            **FOR,
        )

    def _count(self, pending: Sequence[int]) -> None:
        """Count what is done, by whomever."""
        self.done = self.index.num_pictures - sum(len(self.index.rows(shard)) for shard in pending)
        self.on_progress(self.done, self.index.num_pictures)

    def shard(self, shard: int) -> None:
        """Read, encode, write, and then write the card."""
        rows, latents, failed = [], [], []
        tally, wanted = LeftOut().tally, list(self.index.rows(shard))
        batch_size = 1 if self.index.fps is not None else BATCH_SIZE
        for start in range(0, len(wanted), batch_size):
            part = wanted[start : start + batch_size]
            tried = self.pictures.reader.read_rows(part)
            good = [(row, found) for row, found in zip(part, tried, strict=True) if isinstance(found, np.ndarray)]
            bad = [(row, found) for row, found in zip(part, tried, strict=True) if isinstance(found, str)]
            failed += [(self.pictures.reader.pictures.name(row), reason) for row, reason in bad]
            tally.count(len(part), failed[len(failed) - len(bad) :])
            if good:
                latents.append(self._encode([found for _, found in good], first=part[0]))
                rows += [row for row, _ in good]
                self._check_finite(latents[-1], rows[-len(good) :])
            self.on_progress(self.done + min(start + batch_size, len(wanted)), self.index.num_pictures)
        self.done += len(wanted)
        self._write(shard, torch.cat(latents) if latents else torch.zeros((0, *self.index.shape)), rows, failed)

    def _encode(self, pictures: list[np.ndarray], *, first: int) -> Tensor:
        """Latents (B, C, *S) of pictures (H, W, C), or a video (F, H, W, C); the first one's number is the seed."""
        images = as_images(torch.from_numpy(np.stack(pictures)))
        posterior = torch.Generator(self.space.device).manual_seed(first)
        return self.space.encode_images(images, generator=posterior).to("cpu", STORAGE)

    def _check_finite(self, latents: Tensor, rows: Sequence[int]) -> None:
        for latent, row in zip(latents, rows, strict=True):
            if not torch.isfinite(latent).all():
                name = self.pictures.reader.pictures.name(row)
                raise DataError(
                    f"{name} encodes to values that are not finite, or above {torch.finfo(STORAGE).max:g}; is this the "
                    "teacher's autoencoder, with its scaling_factor?"
                )

    def _write(self, shard: int, latents: Tensor, rows: Sequence[int], failed: list[tuple[str, str]]) -> None:
        tensors, metadata = self.pictures.belonging(rows)
        path = shard_path(self.folder, shard)
        with writing(self.folder, **FOR):
            path.with_suffix(".json").unlink(missing_ok=True)
            size, sha256 = write_shard(path, {"latents": latents.to(STORAGE)} | tensors, metadata=metadata)
            card = LatentCard(
                of=self.index.identity(), shard=shard, kept=len(rows), left_out=tuple(failed), bytes=size, sha256=sha256
            )
            write_atomic(path.with_suffix(".json"), card.model_dump_json(indent=2))
