"""What may change between the parts of a run, and what would make another student of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from piflow_cli.core.settings import ValidationSettings
from piflow_cli.errors import PresetError, StorageError
from piflow_cli.io.texts.json_text import differences
from piflow_cli.preset import WORDS, Preset, parse_preset

FREE_TO_CHANGE = {
    "training.steps": "how long",
    "training.micro_batch_size": "how a batch is split; its draws are others",
    "training.gradient_checkpointing": "memory",
    "training.offload_activations": "memory",
    "training.compile": "speed; sums are rounded otherwise",
    "training.data_workers": "speed",
    "training.checkpoint_every": "interval",
    "training.checkpoints_kept": "disk",
    "training.preview_every": "interval",
    "training.preview_images": "pictures to look at",
    "training.trackers": "where it is logged",
    "training.hang_timeout_s": "when to give up",
    "training.exchange_timeout_s": "when to give up",
    **{f"validation.{key}": "pictures to look at, and what is measured" for key in ValidationSettings.model_fields},
    "optimizer.learning_rate": "from this step on",
    "optimizer.decay": "from this step on",
    "optimizer.max_bad_steps": "when to give up",
}
"""Keys with which a run may go on when they differ, and what they concern; the change is noted in the run's history."""
NUM_SHOWN = 6


def check_changes(
    folder: Path,
    stored: Mapping[str, Any],
    preset: Preset,
    stored_sources: Mapping[str, str],
    sources: Mapping[str, str],
) -> list[str]:
    """What differs from the run in a folder and may differ, in words.

    Args:
        folder: of the run.
        stored: its preset as it was written.
        preset: with which it is to go on.
        stored_sources, sources: digests of what it was, and is, trained on and by.

    Raises:
        StorageError: something differs that would make another student; the keys are named.
    """
    try:
        old = parse_preset(stored, origin=str(folder / "preset.json")).model_dump(mode="json")
    except PresetError as error:
        raise StorageError(f"{folder / 'preset.json'} is damaged, or of another version: {error}") from None
    found = [item for item in differences(old, preset.model_dump(mode="json")) if item[0] not in WORDS]
    refused = [f"{key}: {a!r} there, {b!r} now" for key, a, b in found if key not in FREE_TO_CHANGE]
    if refused:
        raise StorageError(
            f"{folder} holds a run of another preset ({_shown(refused)}). Runs are not mixed: choose another --out, "
            "or use the same settings to resume."
        )
    digests = [(key, stored_sources[key], sources[key]) for key in sources if _differs(stored_sources, sources, key)]
    if other := [f"{key}: {a} there, {b} now" for key, a, b in digests if key not in FREE_TO_CHANGE]:
        raise StorageError(
            f"what {folder} was trained on has changed since ({_shown(other)}). Going on would make a student of both: "
            "bring the files back, or choose another --out."
        )
    known = [key for key, _, _ in found]
    found += [item for item in digests if item[0] in FREE_TO_CHANGE and item[0] not in known]
    return [f"{key} {a!r} -> {b!r}" for key, a, b in found]


def _differs(stored: Mapping[str, str], now: Mapping[str, str], key: str) -> bool:
    """Whether a file is known from both times and is another one; what is gone fails where it is needed."""
    return key in stored and stored[key] != now[key]


def _shown(items: list[str]) -> str:
    return "; ".join(items[:NUM_SHOWN]) + (f"; and {len(items) - NUM_SHOWN} more" if len(items) > NUM_SHOWN else "")
