"""`piflow distill --cache-only`: encode pictures and prompts once, and say what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from piflow_cli.cli import console
from piflow_cli.errors import PresetError

if TYPE_CHECKING:
    from piflow_cli.engine.processes.together import Together
    from piflow_cli.preset import Preset

SHOWN = 5
"""Pictures, or videos, that were left out and are named."""


def fill_caches(recipe: Preset, *, device: str, as_json: bool) -> None:
    """Fill data.latents, then data.cache, as far as the preset names them; one of several processes speaks.

    Raises:
        PresetError: the preset names neither.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from piflow_cli.engine.distill import embeddings, latents
    from piflow_cli.engine.processes.together import joined

    if not (recipe.data.latents or recipe.data.cache):
        raise PresetError(
            "there is nothing to cache: data.cache names no folder for the embeddings of prompts (data.type prompts "
            "and captioned), and data.latents none for the latents of pictures (images and captioned). Set one: "
            "--set data.latents=FOLDER"
        )
    found: dict[str, Any] = {}
    with joined(device) as (together, own_device):
        if recipe.data.latents:
            together.main_does(lambda: latents.check_encodable(recipe))
            open_pictures = partial(latents.open_picture_encoder, recipe, device=own_device)
            found["latents"] = _fill(open_pictures, together, _what(recipe))
        if recipe.data.cache:
            together.main_does(lambda: embeddings.check_cacheable(recipe))
            open_texts = partial(embeddings.open_encoder, recipe, device=own_device)
            found["embeddings"] = _fill(open_texts, together, "prompts")
    if together.is_main:
        _report(found, recipe, as_json=as_json)


def _what(recipe: Preset) -> str:
    return "videos" if recipe.teacher.num_frames > 1 else "pictures"


def _fill(load: Callable[[], Any], together: Together, what: str) -> Any:
    countdown, doing = console.Countdown(), f"encoding {what}"
    with console.progress(shown=together.is_main) as line:
        line.busy(f"loading what encodes {what}")
        encoder = together.each_does(load)
        return encoder.fill(
            on_progress=lambda done, total: line.update(
                done, total, countdown.words(f"{done}/{total} {what} encoded", done, total), then=doing
            ),
        )


def _report(found: dict[str, Any], recipe: Preset, *, as_json: bool) -> None:
    if as_json:
        whole = {name: asdict(report) for name, report in found.items()}
        console.print_json(whole["embeddings"] | {"latents": whole.get("latents")} if "embeddings" in whole else whole)
        return
    if "latents" in found:
        _say_latents(found["latents"], recipe)
    if "embeddings" in found:
        report = found["embeddings"]
        typer.echo(f"{report.num_prompts} prompts in {recipe.data.cache}: {_shards(report)}")


def _say_latents(report: Any, recipe: Preset) -> None:
    for doubt in report.doubts:
        console.warn(doubt)
    if report.left_out:
        more = f"; and {len(report.left_out) - SHOWN} more" if len(report.left_out) > SHOWN else ""
        console.warn(f"left out: {'; '.join(report.left_out[:SHOWN])}{more}")
    typer.echo(f"{report.num_pictures} {_what(recipe)} in {recipe.data.latents}: {_shards(report)}")


def _shards(report: Any) -> str:
    return (
        f"{report.size_bytes / 1e6:.1f} MB; shards built {report.built}, kept {report.kept}, by other processes "
        f"{report.shared}"
    )
