"""No test reaches the network, and sums are rounded the same on every machine: libraries read both when imported."""

import itertools
import os

import pytest

from piflow_cli.cli.console import calm_threads

COUNTER = itertools.count()

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")
"""MKL's choice of kernel by the processor changes float32 by more than the fixtures' tolerance of 1e-6."""
calm_threads()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command keeps in the user's cache is kept for one test; the folder is made when it is used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / f"cache-{next(COUNTER)}"))
