"""What folders of pictures hold: files to be read, what systems leave beside them, and what nothing here reads."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from piflow_cli.errors import DataError
from piflow_cli.io.clips.reading import CLIP_SUFFIXES
from piflow_cli.io.images import SUFFIXES

SYSTEM_NAMES = frozenset(
    {"__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}
)
"""What systems leave in folders, besides hidden files; in lower case."""
COMPANIONS = frozenset(
    {".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".npz", ".md", ".rst", ".html", ".xml", ".yaml"}
    | {".yml", ".toml", ".py", ".sh", ".log", ".lock", ".sha256", ".md5"}
)
"""What stands beside pictures and is none."""
COMPANION_NAMES = frozenset({"license", "licence", "readme", "notice", "copying", "authors"})


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Args:
        files: regular files, sorted.
        left_out: names of what looks like data and cannot be read, and why.
    """

    files: tuple[Path, ...]
    left_out: tuple[str, ...]


def list_files(root: Path) -> Listing:
    """The files below a folder, links followed; hidden ones and what systems leave are passed over.

    Raises:
        DataError: a folder cannot be read.
    """
    files: list[Path] = []
    left_out: list[str] = []
    _gather(root, files, left_out, above=())
    return Listing(tuple(sorted(files)), tuple(sorted(left_out)))


def _gather(folder: Path, files: list[Path], left_out: list[str], *, above: tuple[os.stat_result, ...]) -> None:
    """Add what a folder holds; `above` are the folders on the way to it, which a link may lead back to."""
    try:
        facts = os.stat(folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                path = folder / entry.name
                if not is_visible(entry.name):
                    if (is_picture(path) or is_clip(path)) and not entry.name.startswith("._"):
                        left_out.append(f"{path} (hidden)")
                elif entry.is_file():
                    files.append(path)
                elif not entry.is_dir():
                    left_out.append(f"{path} ({'no regular file' if path.exists() else 'a link to nothing'})")
                elif not any(os.path.samestat(entry.stat(), other) for other in (*above, facts)):
                    _gather(path, files, left_out, above=(*above, facts))
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from None


def shards_of(root: Path, suffix: str) -> list[Path]:
    """The file itself, or the files of a folder, whose names end in `suffix` in upper or lower case, sorted."""
    found = sorted(root.iterdir()) if root.is_dir() else [root]
    return [p for p in found if p.suffix.lower() == suffix and is_visible(p.name) and p.is_file()]


def is_visible(name: str) -> bool:
    """Whether a name is neither hidden nor one that systems give to files of their own."""
    return not name.startswith(".") and name.lower() not in SYSTEM_NAMES


def suffix_of(path: PurePath) -> str:
    """What a name ends in, in lower case."""
    return path.suffix.lower()


def is_picture(path: PurePath) -> bool:
    """Whether a name ends as those of pictures do."""
    return suffix_of(path) in SUFFIXES


def is_clip(path: PurePath) -> bool:
    """Whether a name ends as those of videos do; animations may be either."""
    return suffix_of(path) in CLIP_SUFFIXES


def is_companion(path: PurePath) -> bool:
    """Whether a name is of something that stands beside pictures and is not expected to be one."""
    return suffix_of(path) in COMPANIONS or path.stem.lower() in COMPANION_NAMES


def unread(paths: Iterable[Path]) -> list[str]:
    """Names of files that nothing here reads, with their suffix as the reason."""
    return [
        f"{path} ({path.suffix or 'no suffix'}: not read)"
        for path in paths
        if not is_picture(path) and not is_companion(path)
    ]
