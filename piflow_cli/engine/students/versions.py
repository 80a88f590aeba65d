"""The versions of what numbers may depend on."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from piflow_cli import __version__


def versions_of(libraries: Sequence[str]) -> dict[str, str]:
    """The versions of piflow and of libraries, by name."""
    return {"piflow": __version__, **{name: _version(name) for name in libraries}}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # importable, and not installed as a package
        return "unknown"
