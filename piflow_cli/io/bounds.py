"""The bounds of what is read from outside, and reading within them: whoever wrote a file decides nothing about them.

Beyond these, safetensors itself refuses headers over 100 MB and tensors that lie outside their file.
"""

import json
import math
import tomllib
from typing import Any

from piflow_cli.errors import ModelError

MAX_TEXT_BYTES = 16_000_000
"""Of a JSON or TOML document."""
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""Of a file's name, and of a path, as file systems have them."""
MAX_LINE_BYTES = 2**24
"""Of one line of a file of prompts or metrics."""
MAX_LIST_BYTES = 2**30
"""Of a .csv of prompts, which is read as a whole."""
MAX_METRICS_BYTES = 2**31
"""Of a run's metrics.jsonl."""
MAX_DEPTH = 64
"""Tables and lists inside each other."""
MAX_INTEGER = 2**63 - 1
"""In a document, of either sign."""
MAX_LAYERS = 1024
"""Layers, blocks or lists of them in the configuration of a network."""
MAX_WIDTH = 2**24
"""Any other count in the configuration of a network."""
MAX_PICTURE_BYTES = 512 * 2**20
"""Of an encoded picture: one of `MAX_PICTURE_PIXELS` without compression fits."""
MAX_PICTURE_PIXELS = 2**27
"""Of a picture, by its header before anything is decoded: 134 million, half a GB in memory."""
LARGE_PICTURE_PIXELS = 2**25
"""Of larger pictures one is decoded at a time."""
MAX_FRAME_PIXELS = 2**25
"""Of a frame of a video, 33.5 million: 8K."""
MAX_FRAMES = 2**20
"""Of a video."""
MAX_ANIMATION_PIXELS = 2**34
"""Of all frames of an animated GIF or WebP, which are decoded from the first one on: 8,000 of 1080 lines."""
MAX_STATISTICS_BYTES = 2**30
"""Of an array in a file of reference statistics: the covariance of 11,585 features."""
MAX_EMBEDDING_BYTES = 2**28
"""Of the embeddings of one prompt in a cache: 30 times what the longest of Qwen-Image take."""
MAX_CAPTION_BYTES = 2**20
"""Of a file that holds one caption."""
MAX_ROW_GROUP_BYTES = 2**31
"""Of the column of pictures in one row group of a parquet file, which is read as a whole."""
MAX_STEPS = 100_000
"""Of the schedule of a diffusion network."""
MAX_SHARDS = 10**6
"""Of a cache of embeddings."""
LAYER_WORDS = ("layers", "blocks", "depth")
"""What keys of a configuration that count layers have in their names."""
SIZE_WORDS = ("dim", "size", "heads", "channels", "width", "length", "embeds", "groups", "positions", "components")
"""And those that count something else."""


def bounded_json(text: str | bytes) -> Any:
    """The value of a JSON document within the bounds.

    Raises:
        ValueError: it is no JSON, or too long, too deep, or with an integer too large; the message says which.
    """
    _check_length(text)
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _check(value)
    return value


def bounded_toml(text: str) -> dict[str, Any]:
    """The table of a TOML document within the bounds.

    Raises:
        ValueError: as `bounded_json`; a TOMLDecodeError is one.
    """
    _check_length(text)
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _check(value)
    return value


def check_config(config: dict[str, Any], *, origin: object) -> None:
    """Raise ModelError for a network's configuration of a size that no network has, before anything is built of it."""
    pending: list[tuple[str, Any]] = list(config.items())
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending += value.items()
        elif isinstance(value, list | tuple):
            if len(value) > MAX_LAYERS and any(word in key for word in LAYER_WORDS):
                raise ModelError(f"{origin} has {len(value)} {key}; at most {MAX_LAYERS} are read")
            pending += [(key, item) for item in value]
        elif isinstance(value, float) and not math.isfinite(value):
            raise ModelError(f"{origin} says {key} = {value}, which is no finite number")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(key, value, origin)


def _check_number(key: str, value: float, origin: object) -> None:
    limit = MAX_LAYERS if any(word in key for word in LAYER_WORDS) else None
    if limit is None and any(word in key for word in SIZE_WORDS):
        limit = MAX_WIDTH
    if limit is not None and value > limit:
        raise ModelError(f"{origin} says {key} = {value}; no network of more than {limit} is built")


def _integer(digits: str) -> int:
    if len(digits) > len(str(-MAX_INTEGER)):
        raise ValueError(_too_large(digits))
    return int(digits)


def _check_length(text: str | bytes) -> None:
    if len(text) > MAX_TEXT_BYTES:
        raise ValueError(f"it is {len(text) / 1e6:.0f} MB long; at most {MAX_TEXT_BYTES / 1e6:.0f} MB are read")


def _check(value: Any) -> None:
    """Raise ValueError for a value that is nested too deep or holds too large an integer."""
    pending = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise ValueError(_too_deep())
            pending += [(child, depth + 1) for child in (item.values() if isinstance(item, dict) else item)]
        elif isinstance(item, int) and abs(item) > MAX_INTEGER:
            raise ValueError(_too_large(hex(item)))


def _too_deep() -> str:
    return f"it is nested more than {MAX_DEPTH} deep"


def _too_large(digits: str) -> str:
    return f"it holds the integer {digits[:12]}..., which has more than 63 bits"
