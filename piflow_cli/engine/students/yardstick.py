"""What ships to measure the students of an embedded teacher by."""

from dataclasses import dataclass
from pathlib import Path

from piflow_cli.io.zoo import ZOO


@dataclass(frozen=True)
class Yardstick:
    """Names of a reference and a detector, and prompts for text-to-image teachers."""

    reference: str
    detector: str
    prompts: Path | None = None


EMBEDDED_TEACHERS = {
    "zoo:digits": Yardstick("digits", "digits-cnn"),
    "zoo:emoji": Yardstick("emoji", "emoji-cnn", ZOO / "emoji" / "prompts.jsonl"),
}
"""By the source of the teacher."""
