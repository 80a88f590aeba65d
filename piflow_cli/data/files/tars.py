"""Pictures or videos and captions in tar shards, as webdataset lays them out: each read by its place, in any order."""

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from piflow_cli.data.files.captions import caption_text, pair
from piflow_cli.data.files.media import PICTURES, Medium
from piflow_cli.errors import DataError
from piflow_cli.io.bounds import MAX_CAPTION_BYTES, MAX_PICTURE_BYTES
from piflow_cli.io.folders import is_visible
from piflow_cli.io.regular import require_regular

LABEL_SUFFIXES = frozenset({".cls", ".id", ".index"})
"""Numbers that a sample of webdataset may carry beside its picture."""


class Member(NamedTuple):
    """Where a file lies in an uncompressed tar."""

    shard: Path
    name: str
    offset: int
    size: int

    def read(self, *, max_bytes: int) -> bytes:
        """The file, without looking at the rest of the tar.

        Raises:
            DataError: it is larger than `max_bytes`.
            OSError: the tar cannot be read.
        """
        if self.size > max_bytes:
            raise DataError(
                f"{self.shard}:{self.name} has {self.size / 2**20:.0f} MB; up to {max_bytes / 2**20:.0f} MB are read"
            )
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class TarPictures:
    """Members of tar shards, whose places were read once."""

    members: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.members)

    def name(self, index: int) -> str:
        """Shard and name."""
        return f"{self.members[index].shard}:{self.members[index].name}"

    def content(self, index: int) -> bytes:
        """The member."""
        return self.members[index].read(max_bytes=MAX_PICTURE_BYTES)


class TarSamples(NamedTuple):
    """Pictures of a tar, their captions, names of pictures without one, and names of what is not read."""

    pictures: list[Member]
    captions: list[str]
    alone: list[str]
    unread: list[str]


def read_tar(shard: Path, column: str | None, medium: Medium = PICTURES) -> TarSamples:
    """The pictures, or videos, and captions of a tar.

    Args:
        shard: an uncompressed tar.
        column: field of the caption in JSON; None takes prompt, caption or text.
        medium: which of its files are taken.

    Raises:
        DataError: it is damaged or compressed, or a caption cannot be read.
    """
    members, unread = _members(shard)
    pairs = pair(members, medium.suffixes)
    captions = []
    for name in pairs.captions:
        where = f"{shard}:{name}"
        captions.append(caption_text(name, members[name].read(max_bytes=MAX_CAPTION_BYTES), column, where=where))
    others = medium.unread(name for name in members if Path(name).suffix not in LABEL_SUFFIXES)
    return TarSamples(
        pictures=[members[name] for name in pairs.pictures],
        captions=captions,
        alone=[f"{shard}:{name}" for name in pairs.alone],
        unread=[*unread, *(f"{shard}:{name}" for name in others)],
    )


def _has_end(shard: Path, offset: int) -> bool:
    """Whether zeros end a tar behind its last member; `tarfile` takes the end of the file for one too.

    Raises:
        TarError: something else is there, which `tarfile` would leave out without a word.
    """
    with shard.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if any(block) or 0 < len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"what follows its first {offset:,} bytes is no member and no end")
    return bool(block)


def _members(shard: Path) -> tuple[dict[str, Member], list[str]]:
    """Regular files by name, and the names of pictures that are stored in a way that has no place of its own."""
    members: dict[str, Member] = {}
    unread: list[str] = []
    try:
        require_regular(shard)
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                name = info.name.removeprefix("./")
                if not all(map(is_visible, name.split("/"))):
                    continue
                if info.islnk() and info.linkname.removeprefix("./") in members:
                    members[name] = members[info.linkname.removeprefix("./")]._replace(name=name)
                elif info.isreg() and not info.issparse():
                    members[name] = Member(shard, name, info.offset_data, info.size)
                elif not info.isdir():
                    unread.append(f"{shard}:{name} (no plain file of the tar)")
            if not _has_end(shard, tar.offset):
                unread.append(f"{shard} (ends without the mark of an end: it may be cut short)")
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{shard} cannot be read as a tar: {error}. It has to be whole, and not compressed, as there is no random "
            "access to a compressed one."
        ) from None
    return members, unread
