"""piflow: distil slow flow-matching image models into students of 1 to 8 network evaluations (arXiv 2510.14974)."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

OFFERED = {"load_pipeline": "piflow_cli.engine.pipelines"}
"""What the package offers by itself, and where it is: imported when asked for, so that the package stays light."""
__all__ = ["load_pipeline"]


def __getattr__(name: str) -> Any:
    """An attribute that is offered, from where it is."""
    if name not in OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(OFFERED[name]), name)
