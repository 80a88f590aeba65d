"""Tensors kept in the user's cache from one command to the next: whole or not at all, checked, and bounded in size."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from piflow_cli.errors import StorageError
from piflow_cli.io.checksums import TENSORS_KEY, tensors_sha256
from piflow_cli.io.files import write_atomic
from piflow_cli.io.tensors.files import open_tensors

SUFFIX = ".safetensors"


def cache_folder() -> Path:
    """Where downloads and what commands keep lie: ~/.cache/piflow, or under XDG_CACHE_HOME.

    A user without a home, as containers have, gets a place among temporary files.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named or Path.home() / ".cache") / "piflow"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "piflow"


@dataclass(frozen=True)
class Kept:
    """A folder of entries by name; the least recently used go when all are larger than `max_bytes` together."""

    folder: Path
    max_bytes: int

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """Tensors and words of an entry, which counts as used now; None where there is none.

        Raises:
            StorageError: it is damaged.
        """
        path = self._path(name)
        if not path.exists():
            return None
        with open_tensors(path, what="an entry of the cache", error=StorageError) as file:
            words = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if words.pop(TENSORS_KEY, None) != tensors_sha256(tensors):
            raise StorageError(f"{path} is not what was written there")
        with suppress(OSError):  # of a folder that is read-only by now
            os.utime(path)
        return tensors, words

    def write(self, name: str, tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> None:
        """Keep an entry, in the place of one of its name, and let go of others where they are too many.

        Raises:
            StorageError: the folder cannot be written, or its disk is full.
        """
        from safetensors.torch import save

        whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
        content = save(whole, metadata={**words, TENSORS_KEY: tensors_sha256(whole)})
        if len(content) > self.max_bytes:
            return
        write_atomic(self._path(name), content)
        self._make_room(keep=self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"

    def _make_room(self, *, keep: Path) -> None:
        """Remove the least recently used entries; other processes may do so at the same time."""
        entries = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                found = path.stat()
                entries.append((found.st_mtime_ns, found.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                break
            if path != keep:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                total -= size
