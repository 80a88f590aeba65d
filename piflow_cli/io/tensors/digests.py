"""Digests of files: cheap, and others for other content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from piflow_cli.io.regular import require_regular
from piflow_cli.io.weights import find_weights

CHUNK_BYTES = 1 << 16
NUM_CHUNKS = 16
"""Pieces of a large file that are read, spread over it: another training of the same network differs in each."""
WHOLE_BYTES = 1 << 26
"""Files up to this size are read whole."""


def digest_content(file: Path) -> str:
    """Size, and a digest of a file whole, or of its start and of pieces spread over it."""
    require_regular(file)
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open("rb") as content:
        if size <= WHOLE_BYTES:
            return f"{size} bytes, {hashlib.file_digest(content, 'sha256').hexdigest()[:16]}"
        for i in range(NUM_CHUNKS):
            content.seek((size - CHUNK_BYTES) * i // (NUM_CHUNKS - 1))
            digest.update(content.read(CHUNK_BYTES))
    return f"{size} bytes, {digest.hexdigest()[:16]}"


def digest_models(folders: Sequence[Path], *, variant: str | None = None) -> str | None:
    """One digest of the weights in some models' folders, None where they are not all on this machine.

    Args:
        folders: each with the weight files of one model.
        variant: of the weights, such as fp16.
    """
    digest = hashlib.sha256()
    for folder in folders:
        found = find_weights([path.name for path in folder.iterdir()] if folder.is_dir() else (), variant=variant)
        if found is None or found.missing:
            return None
        for name in found.names:
            digest.update(digest_content(folder / name).encode())
    return digest.hexdigest()[:16]


def fingerprint(kind: str, facts: Sequence[object], weights: str | None) -> str:
    """A name for what encodes, as KIND-FACTS-WEIGHTS, or KIND-FACTS where its weights are not on this machine.

    Args:
        kind: without a dash.
        facts: what is known from configs: JSON.
        weights: their digest.
    """
    text = json.dumps(list(facts), sort_keys=True)
    parts = [kind, hashlib.sha256(text.encode()).hexdigest()[:16], *([weights] if weights is not None else [])]
    return "-".join(parts)


def may_be_same(first: str, second: str) -> bool:
    """Whether two fingerprints may be of one thing: all that both know of it is equal."""
    return all(a == b for a, b in zip(first.split("-"), second.split("-"), strict=False))
