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


def assert_within(actual: Tensor, expected: Tensor, error: Tensor | float) -> None:
    """Compare with a float64 reference at the fixtures' tolerance plus `error`, which broadcasts.

    Why an error on top: at small sigma, u = (x - x_0) / sigma magnifies rounding, and so do a mean velocity's division
    by a short span, a textbook posterior that subtracts large numbers, and substep times that are added up in float32.
    There the published code's own float32 results differ from float64 by more than 1e-5, and the fixtures' README
    allows for it: `error` is that difference, as a fixture states it or as `reference.float32_allowance` bounds it.
    """
    expected = expected.double()
    allowed = ATOL + RTOL * expected.abs() + torch.as_tensor(error, dtype=torch.float64)
    excess = ((actual.double() - expected).abs() / allowed).max().item()
    assert excess <= 1, f"the largest difference is {excess:.3g} times what is allowed"
