"""piflow: distil slow flow-matching image models into students of 1 to 8 network evaluations (arXiv 2510.14974)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from piflow_cli.engine.pipelines import load_pipeline

__version__ = "0.1.0"
__all__ = ["load_pipeline"]


def __getattr__(name: str) -> Any:
    """What the package offers, imported when it is asked for: the package itself stays light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from piflow_cli.engine import pipelines

    return getattr(pipelines, name)
