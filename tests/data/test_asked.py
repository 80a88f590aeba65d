"""What a person asks to be drawn: files of any kind and encoding, stdin, seeds of their own."""

import io
import sys
from pathlib import Path

import pytest

from piflow_cli.data.asked import Asked, read_asked
from piflow_cli.errors import DataError

GOOD = {
    "a.txt": (b"a cat\r\n\r\n  a dog \n", [Asked("a cat"), Asked("a dog")]),
    "bom.txt": ("\ufeffa cat\n".encode(), [Asked("a cat")]),
    "a.jsonl": (
        b'{"prompt": "a cat\\nin a hat", "seed": 7}\n{"prompt": "a dog"}\n',
        [Asked("a cat\nin a hat", 7), Asked("a dog")],
    ),
    "a.csv": (
        b'prompt,seed,note\n"a cat,\nin a hat",7,x\na dog,,\n,3,\n',
        [Asked("a cat,\nin a hat", 7), Asked("a dog")],
    ),
    "bom.csv": ("\ufeffcaption\na cat\n".encode(), [Asked("a cat")]),
}
BAD = {
    "latin.txt": ("café".encode("latin-1"), "is not UTF-8"),
    "utf16.txt": ("a cat".encode("utf-16"), "is not UTF-8"),
    "latin.csv": ("prompt\ncafé".encode("latin-1"), "is not UTF-8"),
    "empty.csv": (b"", "no column"),
    "other.csv": (b"x,y\n1,2\n", "it has 'x', 'y'"),
    "blank.csv": (b"prompt\n\n", "has no prompts"),
    "quote.csv": (b'prompt\n"a cat\n', "cannot be read as .csv"),
    "seed.csv": (b"prompt,seed\na cat,x\n", "has the seed 'x'"),
    "seed.jsonl": (b'{"prompt": "a cat", "seed": -1}', "has the seed '-1'"),
    "true.jsonl": (b'{"prompt": "a cat", "seed": true}', "has the seed 'True'"),
    "half.jsonl": (b'{"prompt": "\\ud800"}', "UTF-8 does not have"),
    "deep.jsonl": (b"[" * 100_000, "is not JSON"),
    "blank.txt": (b" \n\n", "has no prompts"),
    "a.png": (b"x", "prompts are read from"),
}


@pytest.mark.parametrize("name", GOOD)
def test_files_of_every_kind(name: str, tmp_path: Path) -> None:
    content, expected = GOOD[name]
    (tmp_path / name).write_bytes(content)
    assert read_asked(str(tmp_path / name)) == expected


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_named(name: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_asked(str(tmp_path / name))
    with pytest.raises(DataError, match="does not exist"):
        read_asked(str(tmp_path / f"no-{name}"))


def test_stdin_is_a_line_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))

    pipe("\ufeffa cat\r\n\n eine Möwe\n".encode())
    assert read_asked("-") == [Asked("a cat"), Asked("eine Möwe")]
    pipe("eine Möwe".encode("latin-1"))
    with pytest.raises(DataError, match="stdin, line 1, is not UTF-8"):
        read_asked("-")
    pipe(b"")
    with pytest.raises(DataError, match="has no prompts"):
        read_asked("-")
