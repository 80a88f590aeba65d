"""Any text as a path, the name of a file, or a label: texts hold line breaks, emoji, or ten thousand letters."""

import os
import sys
import unicodedata
from pathlib import Path

from piflow_cli.errors import PiflowError
from piflow_cli.io.bounds import MAX_NAME_BYTES, MAX_PATH_BYTES

STEM_BYTES = 120
"""Of a file's name made of a text, so that a number, a seed and a suffix fit into the 255 that file systems allow."""
LABEL_CHARACTERS = 300
KEPT = "LNM"
"""Classes of characters that a file's name keeps: letters, numbers and marks, of any script."""


def user_path(typed: str | Path) -> Path:
    """A path as a person writes it: ~ is the home folder; of somebody who has none it stays, as in a shell.

    Raises:
        PiflowError: no file can have such a name.
    """
    try:
        path = Path(typed).expanduser()
    except RuntimeError:
        path = Path(typed)
    check_path(path)
    return path


def check_path(path: Path) -> None:
    """Raise PiflowError for a path that no system can be asked about: asking would end in errors of its own."""
    shown = repr(str(path)[:40]) + "..." * (len(str(path)) > 40)
    if "\0" in str(path):
        raise PiflowError(f"{shown} is no path: it holds a NUL character")
    try:
        longest, whole = max((len(os.fsencode(part)) for part in path.parts), default=0), len(os.fsencode(path))
    except UnicodeEncodeError:
        raise PiflowError(f"{shown} is no path: it holds halves of characters, which no file's name has") from None
    if longest > MAX_NAME_BYTES or whole > MAX_PATH_BYTES:
        raise PiflowError(
            f"{shown} is no path: names have at most {MAX_NAME_BYTES} bytes, and paths {MAX_PATH_BYTES}; this one has "
            f"{longest} and {whole}"
        )


def first_line(error: BaseException, *, limit: int = 200) -> str:
    """What an error of a library says, as one line for a message; of one that says nothing its class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:limit]


def file_stem(text: str, *, otherwise: str = "picture") -> str:
    """A name without its suffix that says what a text says, at most `STEM_BYTES` long: letters, numbers, _ and -.

    Args:
        text: anything, lone surrogates included.
        otherwise: the name of a text that has no such character.
    """
    composed = unicodedata.normalize("NFC", text[: 4 * STEM_BYTES])
    kept = (c if unicodedata.category(c)[0] in KEPT or c in "_-" else " " for c in composed)
    words = "-".join("".join(kept).split())
    encoding = sys.getfilesystemencoding()
    cut = words.encode(encoding, "ignore")[:STEM_BYTES].decode(encoding, "ignore")
    return cut.strip("-") or otherwise


def label_of(text: str) -> str:
    """A text on one line, without characters that have no shape of their own: controls, directions, surrogates."""
    line = " ".join(text[: 4 * LABEL_CHARACTERS].split())
    return "".join(c for c in line if unicodedata.category(c)[0] != "C")[:LABEL_CHARACTERS]
