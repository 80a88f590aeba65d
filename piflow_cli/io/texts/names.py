"""Any text as the name of a file, or as a label: prompts hold line breaks, emoji, or ten thousand letters."""

import sys
import unicodedata

STEM_BYTES = 120
"""Of a file's name made of a text, so that a number, a seed and a suffix fit into the 255 that file systems allow."""
LABEL_CHARACTERS = 300
KEPT = "LNM"
"""Classes of characters that a file's name keeps: letters, numbers and marks, of any script."""


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
