"""What ships with the package, by `zoo:NAME`: teachers, students, feature networks and prompts."""

from pathlib import Path

ZOO = Path(__file__).parents[1] / "zoo"
PREFIX = "zoo:"


def in_zoo(source: str, part: str) -> Path | None:
    """The path of a part of a zoo entry, whether it exists or not; None where `source` is not `zoo:NAME`."""
    if not source.startswith(PREFIX):
        return None
    return ZOO / source.removeprefix(PREFIX) / part


def zoo_entries(part: str) -> list[str]:
    """The entries that have a part, as `zoo:NAME`, sorted."""
    return [PREFIX + path.parent.name for path in sorted(ZOO.glob(f"*/{part}"))]
