"""Access to the numerical fixtures in tests/fixtures/parity (see the README there)."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parent / "fixtures" / "parity"
RTOL, ATOL = 1e-5, 1e-6


def names(folder: str, pattern: str = "*") -> list[str]:
    """Names of the cases in a folder of fixtures, as `folder/name`."""
    found = sorted(path.stem for path in (ROOT / folder).glob(f"{pattern}.safetensors"))
    assert found, f"no fixtures {folder}/{pattern}"
    return [f"{folder}/{name}" for name in found]


@cache
def load(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of one case."""
    return load_file(ROOT / f"{name}.safetensors"), json.loads((ROOT / f"{name}.json").read_text())


def out(tensors: dict[str, Tensor], key: str) -> Tensor:
    """An output on which both published versions agree, or that of v0.1.2, whose rounding of substeps we share."""
    return tensors[f"out/{key}"] if f"out/{key}" in tensors else tensors[f"out_v0_1_2/{key}"]


def assert_close(actual: Tensor, expected: Tensor, *, rtol: float = RTOL, atol: float = ATOL) -> None:
    """Compare at the project's tolerance for fixtures."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)
