"""Quantising a transformer while it loads: diffusers' own configurations, but for what students replace."""

from typing import Any

import torch

from piflow_cli.errors import MissingExtraError
from piflow_cli.teachers.text.settings import Quantization

KEPT_IN_FULL = ("norm_out", "proj_out")
"""Modules that students replace; they are never quantised."""


def quantization_config(name: Quantization, dtype: torch.dtype) -> Any:
    """diffusers' configuration of a quantisation; what students replace stays in full precision."""
    import diffusers

    skipped = list(KEPT_IN_FULL)
    if name.startswith("bnb"):
        require("bitsandbytes", "bitsandbytes")
        four = name == "bnb-4bit"
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype} if four else {}
        return diffusers.BitsAndBytesConfig(load_in_8bit=not four, llm_int8_skip_modules=skipped, **options)
    require("torchao", "torchao")
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    kind = Int8WeightOnlyConfig() if name == "torchao-int8" else Float8WeightOnlyConfig()
    return diffusers.TorchAoConfig(kind, modules_to_not_convert=skipped)


def require(module: str, extra: str) -> None:
    """Raise MissingExtraError where a library is not installed."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingExtraError(f"this quantisation needs {module}: pip install 'piflow[{extra}]'")
