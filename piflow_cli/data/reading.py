"""Drawn pictures or videos: read by number, another in the place of each that does not decode, those counted and named.

Shapes: B batch, C channels (1 or 3), F frames, H, W size in pixels.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from piflow_cli.core.interfaces import Condition, Draw, Space
from piflow_cli.data.noise import draw_indices, draw_rows
from piflow_cli.errors import DataError
from piflow_cli.io.clips.containers import demuxer_of
from piflow_cli.io.clips.frames import Clip
from piflow_cli.io.clips.reading import decode_clip
from piflow_cli.io.images import PictureError, decode_to

DECODING_THREADS = 8
PATIENCE = 16
"""Pictures that may fail before the share of failures counts."""
REASON_LENGTH = 240
PICTURE_DIMS = 4
FEW_PICTURES = 64
"""So many are read in the training process: others would cost more than they save."""


class Pictures(Protocol):
    """Encoded pictures by number."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Where the picture is, for messages."""
        ...

    def content(self, index: int) -> bytes:
        """The encoded picture; DataError or OSError where it cannot be read."""
        ...


class Rows(Protocol):
    """What belongs to the pictures, by number."""

    def take(self, index: Sequence[int]) -> Condition:
        """Conditions of B rows, as `Space.conditions` takes them."""
        ...


@dataclass(frozen=True)
class Labels:
    """Classes by number."""

    values: tuple[int, ...]

    def take(self, index: Sequence[int]) -> Tensor:
        """(B,) int64."""
        return torch.tensor([self.values[i] for i in index])


@dataclass(frozen=True)
class PictureBatch:
    """What reading a draw gave.

    Args:
        pixels: (B, H, W, C) uint8, of videos (B, F, H, W, C).
        conditions: of the pictures in it.
        seed: of what encoding draws.
        num_read: pictures tried.
        failures: those that did not decode, by name, and why.
    """

    pixels: Tensor
    conditions: Condition
    seed: int
    num_read: int
    failures: tuple[tuple[str, str], ...] = ()


def as_images(pixels: Tensor) -> Tensor:
    """Pictures (B, C, H, W), or videos (B, C, F, H, W), in [0, 1] of uint8 with the channels last."""
    return pixels.movedim(-1, 1).float() / 255


@dataclass(frozen=True)
class PictureReader:
    """Reads pictures with what belongs to them.

    Args:
        size_px: width and height where a draw names none.
        channels: 1 or 3.
        frames: of videos; 1 reads pictures.
        fps: frames a second of videos.
    """

    pictures: Pictures
    rows: Rows
    size_px: tuple[int, int]
    channels: int
    frames: int = 1
    fps: int = 1

    @classmethod
    def of_space(cls, space: Space, pictures: Pictures, rows: Rows, size_px: tuple[int, int]) -> "PictureReader":
        """What reads for a teacher: pictures, or videos of its number and rate of frames."""
        return cls(pictures, rows, size_px, space.image_channels, space.frames, space.fps)

    def read(self, draw: Draw) -> PictureBatch:
        """The pictures of a draw; the replacements of those that do not decode depend on its seed alone.

        Raises:
            DataError: hardly any picture decodes.
        """
        index, size_px = list(draw.rows), draw.size_px or self.size_px
        others, tally = torch.Generator().manual_seed(draw.seed), Tally()
        pixels: dict[int, np.ndarray] = {}  # by place in the batch
        failures: list[tuple[str, str]] = []
        while missing := [place for place in range(len(index)) if place not in pixels]:
            for place, tried in zip(missing, self._read([index[place] for place in missing], size_px), strict=True):
                if isinstance(tried, np.ndarray):
                    pixels[place] = tried
                else:
                    failures.append((self.pictures.name(index[place]), tried))
                    index[place] = int(draw_indices(len(self.pictures), 1, others))
            tally.count(len(missing), failures[tally.num_failed :])
        return PictureBatch(
            pixels=torch.from_numpy(np.stack([pixels[place] for place in range(len(index))])),
            conditions=self.rows.take(index),
            seed=draw.seed,
            num_read=tally.num_read,
            failures=tuple(failures),
        )

    def read_rows(self, index: Sequence[int]) -> list[np.ndarray | str]:
        """Pictures (H, W, C), or videos (F, H, W, C), in uint8 by number at the reader's size, or why there is none."""
        return self._read(list(index), self.size_px)

    def _read(self, index: list[int], size_px: tuple[int, int]) -> list[np.ndarray | str]:
        """Pictures (H, W, C), or videos (F, H, W, C), in uint8, or why there is none; of videos one at a time."""
        if self.frames > 1 or get_worker_info() is not None:  # one of several processes, which share the cores
            return [self._try(i, size_px) for i in index]
        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            return list(pool.map(lambda i: self._try(i, size_px), index))

    def _try(self, index: int, size_px: tuple[int, int]) -> np.ndarray | str:
        try:
            content = self.pictures.content(index)
            if self.frames > 1:
                return decode_clip(content, Clip(self.frames, self.fps, size_px, self.channels))
            if demuxer_of(content) is not None:
                raise PictureError("it is a video, and the teacher draws pictures")
            picture = decode_to(content, size_px=size_px, channels=self.channels)
        except OSError as error:
            return error.strerror or str(error)
        except DataError as error:
            return str(error)
        return np.asarray(picture).reshape(size_px[1], size_px[0], self.channels)


@dataclass
class Tally:
    """How many pictures were tried, and how many of them failed."""

    num_read: int = 0
    num_failed: int = 0

    def count(self, num_read: int, failures: Sequence[tuple[str, str]]) -> None:
        """Add some; failures are names and reasons.

        Raises:
            DataError: more than half of all have failed.
        """
        self.num_read += num_read
        self.num_failed += len(failures)
        if failures and self.num_failed > PATIENCE and self.num_failed > self.num_read / 2:
            name, reason = failures[-1]
            raise DataError(
                f"{self.num_failed} of {self.num_read} drawn do not decode or cannot be used, the last being {name}: "
                f"{reason}. Check data.path."
            )


@dataclass
class LeftOut:
    """What a source has left out so far, each once and with the reason, in the order in which it was found."""

    names: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._known = set(self.names)

    def add(self, batch: PictureBatch) -> None:
        """Count what failed in a batch. Raises DataError as `Tally.count`."""
        for name, reason in batch.failures:
            if name not in self._known:
                self._known.add(name)
                self.names.append(f"{name} ({reason[:REASON_LENGTH]})")
        self.tally.count(batch.num_read, batch.failures)


def plan_pictures(
    count: int, batch_size: int, generator: torch.Generator, size_px: tuple[int, int] | None = None
) -> Draw:
    """A draw of `batch_size` out of `count` pictures with replacement, and the seed of what follows."""
    drawn = draw_rows(count, batch_size, generator)
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    return replace(drawn, size_px=size_px, seed=seed)


def encode_batch(batch: PictureBatch, space: Space) -> tuple[Tensor, Condition]:
    """Latents (B, C, *S) of a batch, and its conditions; an autoencoder's posterior is drawn by the batch's seed.

    Videos are encoded one at a time.
    """
    posterior = torch.Generator(space.device).manual_seed(batch.seed)
    parts = batch.pixels.split(1) if batch.pixels.ndim > PICTURE_DIMS else (batch.pixels,)
    latents = [space.encode_images(as_images(part), generator=posterior) for part in parts]
    return torch.cat(latents), batch.conditions
