"""What a teacher learns from, pictures or videos: which files are taken, and what is said of others."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from piflow_cli.io.clips.reading import CLIP_SUFFIXES, CONTAINER_SUFFIXES
from piflow_cli.io.folders import is_companion, suffix_of
from piflow_cli.io.images import SUFFIXES


@dataclass(frozen=True)
class Medium:
    """One kind of file.

    Args:
        name: in the plural, for messages.
        suffixes: what names of its files end in.
        foreign: suffixes of the other kind that are none of its own.
        foreign_reason: why those are left out.
    """

    name: str
    suffixes: frozenset[str]
    foreign: frozenset[str]
    foreign_reason: str

    def takes(self, path: PurePath) -> bool:
        """Whether a name ends as those of its files do."""
        return suffix_of(path) in self.suffixes

    def refuses(self, path: PurePath) -> bool:
        """Whether it ends as those of the other kind alone do."""
        return suffix_of(path) in self.foreign

    def unread(self, paths: Iterable[Path | str]) -> list[str]:
        """Names of what is not read, and why; what may stand beside files of any kind is passed over."""
        found = []
        for path in paths:
            if self.refuses(PurePath(path)):
                found.append(f"{path} ({self.foreign_reason})")
            elif not self.takes(PurePath(path)) and not is_companion(PurePath(path)):
                found.append(f"{path} ({PurePath(path).suffix or 'no suffix'}: not read)")
        return found


PICTURES = Medium("pictures", SUFFIXES, CONTAINER_SUFFIXES, "a video, and the teacher draws pictures")
VIDEOS = Medium("videos", CLIP_SUFFIXES, SUFFIXES - CLIP_SUFFIXES, "a picture, and the teacher draws videos")


def medium_of(frames: int) -> Medium:
    """What a teacher of so many frames learns from."""
    return VIDEOS if frames > 1 else PICTURES
