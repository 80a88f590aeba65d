"""Quantisations that run without a GPU, each with the reason why it does not run here."""

from importlib.util import find_spec
from typing import Any

import pytest

LIBRARIES = {
    "bnb-4bit": "bitsandbytes",
    "bnb-8bit": "bitsandbytes",
    "torchao-int8": "torchao",
    "torchao-fp8": "torchao",
}
QUANTIZATIONS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(library) is None, reason=f"{library} is not installed"))
    for name, library in LIBRARIES.items()
]


def _allow(*_arguments: Any, **_options: Any) -> None:
    """Nothing is checked."""


@pytest.fixture
def bitsandbytes_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers load bitsandbytes' layers onto a CPU: it refuses machines without a GPU, bitsandbytes does not.

    Its packed kernel for CPUs, which takes no layer narrower than 64, is left out.
    """
    if find_spec("bitsandbytes") is None:
        return
    from bitsandbytes.nn import modules
    from diffusers.quantizers.bitsandbytes import bnb_quantizer

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)
    for quantizer in (bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer):
        monkeypatch.setattr(quantizer, "validate_environment", _allow)
