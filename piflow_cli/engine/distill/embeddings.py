"""Encoding the prompts of a preset once: the trainer then streams embeddings and loads no text encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from piflow_cli.core.conditions import Prompt, join_conditions
from piflow_cli.core.interfaces import Condition, DataSource, PromptSpace, Space
from piflow_cli.data.embeddings.building import CacheReport, build_shards
from piflow_cli.data.embeddings.cache import CachePlan, check_same, missing_shards, open_cache, read_index
from piflow_cli.data.prompt_lists import PromptList
from piflow_cli.engine.distill.latents import fill_latents
from piflow_cli.engine.plan.checks import check_references, validated_prompts
from piflow_cli.engine.students.device import resolve_device, resolve_dtype
from piflow_cli.errors import PresetError
from piflow_cli.io.files import writable_folder
from piflow_cli.io.tensors.digests import may_be_same
from piflow_cli.io.texts.names import user_path
from piflow_cli.preset import Preset

ENCODED_AT_ONCE = 8
"""Prompts with pictures that are encoded together: text encoders that see pictures take much memory."""


def cache_folder(preset: Preset) -> Path | None:
    """Where the preset's embeddings are cached, None where it caches none."""
    folder = preset.data.cache
    return user_path(folder) if folder else None


@dataclass(frozen=True)
class Encoder:
    """The text side of a teacher, loaded without its transformer, and what it is to encode into which folder."""

    folder: Path
    plan: CachePlan
    encode: Callable[[list[Prompt]], Any]

    def fill(
        self, *, on_progress: Callable[[int, int], None] = lambda _done, _total: None, verify: bool = True
    ) -> CacheReport:
        """Encode what is not in the folder yet; arguments and errors as `cache_embeddings`."""
        return build_shards(self.folder, self.plan, self.encode, on_progress, verify=verify)


def cache_embeddings(
    preset: Preset,
    *,
    device: str | torch.device = "auto",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    verify: bool = True,
) -> CacheReport:
    """Encode every prompt of a preset into its cache; what is there and whole is kept.

    Any number of processes may do it at once, and a stopped one leaves whole shards behind.

    Args:
        preset: names the prompts (data.path), the cache (data.cache) and the teacher whose encoders to use.
        device: auto, cpu, cuda, cuda:N, mps, or a torch device.
        on_progress: called with the prompts done and the prompts of the whole cache.
        verify: compare the checksums of all shards that are there, not only their sizes.

    Raises:
        DataError: the cache is of something else, or a prompt encodes to non-finite values.
        PresetError, DataError, ModelError, StorageError: as `check_cacheable` and `open_encoder`.
    """
    check_cacheable(preset)
    return open_encoder(preset, device=device).fill(on_progress=on_progress, verify=verify)


def check_cacheable(preset: Preset) -> None:
    """Refuse what can be refused before the encoders load.

    Raises:
        PresetError: the preset caches nothing, or has reference pictures that the teacher does not take.
        DataError: its prompts or the pictures of its validation cannot be read.
        StorageError: the folder cannot be written.
    """
    folder = cache_folder(preset)
    if folder is None:
        raise PresetError("data.cache names no folder; set it to cache embeddings: --set data.cache=FOLDER")
    check_references(preset)
    preset.data.check_source()
    writable_folder(folder)


def open_encoder(preset: Preset, *, device: str | torch.device) -> Encoder:
    """Load the text encoders of a preset that caches.

    Raises:
        DataError: the prompts cannot be read.
        ModelError: the text encoders cannot be loaded.
    """
    target = device if isinstance(device, torch.device) else resolve_device(device)
    space = preset.teacher.load_space(device=target, dtype=resolve_dtype(preset.training.teacher_dtype, target))
    _ = space.latent_shape  # refuses a size that the autoencoder cannot do, before hours of encoding

    def encode(prompts: list[Prompt]) -> Any:
        return replace(space.encode_prompts(prompts), guidance=None)

    return Encoder(user_path(preset.data.cache), _plan(preset, preset.data.open(space)), encode)


def is_cached(preset: Preset) -> bool:
    """Whether every prompt of a preset is in its cache, by the sizes of what is there; no text encoder is loaded.

    Raises:
        DataError: the prompts cannot be read, or the cache is of something else.
        ModelError: the teacher's configs or its autoencoder cannot be had.
    """
    folder = cache_folder(preset)
    if folder is None:
        return False
    index = read_index(folder)
    if index is None:
        return False
    plan = _plan(preset, preset.data.open(preset.teacher.load_space(encoders=False)))
    return not missing_shards(folder, plan, verify=False) and set(plan.names) <= set(index.specials)


def fill_cache(preset: Preset, *, device: torch.device, on_progress: Callable[..., None]) -> bool:
    """Fill the preset's latents and its cache before its transformer is loaded; returns whether it names a cache.

    Args:
        on_progress: called with how many are encoded, of how many, and `what`.

    Raises: as `fill_latents`, `cache_embeddings` and `is_cached`.
    """
    fill_latents(preset, device=device, on_progress=partial(on_progress, what="pictures"))
    if cache_folder(preset) is None:
        return False
    if not is_cached(preset):
        cache_embeddings(preset, device=device, on_progress=on_progress, verify=False)
    return True


def open_with_cache(preset: Preset, space: PromptSpace) -> DataSource:
    """The preset's data with its complete cache, and the space given the embedding of its negative prompt.

    Raises:
        DataError: the cache is incomplete, or of other prompts or another encoder.
    """
    source = preset.data.open(space)
    folder = cache_folder(preset)
    if folder is None:
        return source
    reader = open_cache(folder)
    check_same(folder, reader.index, _plan(preset, source))
    for text in reader.index.specials:
        if text == preset.teacher.negative_prompt:
            space.set_null_condition(reader.special(text))
    return source.with_cache(reader)


def encode_asked(preset: Preset, space: Space, listed: PromptList) -> Condition:
    """The condition of prompts, or names of classes: from the preset's cache where it names one.

    Raises:
        DataError: no class of such a name, the cache does not hold a prompt, or a reference picture is not taken.
    """
    folder = cache_folder(preset)
    if folder is not None:
        reader = open_cache(folder)
        return space.conditions(join_conditions([reader.special(name) for name in _names(preset, listed)]))
    if listed.about is None:
        return space.encode_prompts(list(listed.texts))
    numbers = range(len(listed))
    parts = [numbers[start : start + ENCODED_AT_ONCE] for start in numbers[::ENCODED_AT_ONCE]]
    return space.conditions(join_conditions([space.encode_prompts([*map(listed.asked, part)]) for part in parts]))


def _names(preset: Preset, listed: PromptList) -> list[str]:
    """What prompts are called in the preset's cache.

    The cache belongs to the autoencoder where its rows are about pictures; where they are not, those that are say it.
    """
    known = listed.about is None or preset.data.references is not None
    made = "" if known else f" by {preset.teacher.autoencoder_fingerprint()}"
    return [listed.key(i) + made if listed.num_pictures(i) else listed.key(i) for i in range(len(listed))]


def _plan(preset: Preset, source: Any) -> CachePlan:
    """What the preset's cache holds: its prompts, the negative one, and those of its validation.

    Where prompts are always about pictures, the negative one is in every row, and not by itself.

    A cache whose encoder may be this one, as far as its weights are known here and were known there, goes by its name.
    """
    negative = () if preset.teacher.num_pictures[0] else (preset.teacher.negative_prompt,)
    encoder = preset.teacher.encoder_fingerprint(pictures=preset.data.references is not None)
    index = read_index(cache_folder(preset))
    if index is not None and may_be_same(index.fingerprint, encoder):
        encoder = index.fingerprint
    listed = validated_prompts(preset)
    named = list(enumerate(_names(preset, listed)))
    return CachePlan(
        source.prompts,
        encoder,
        storage=preset.data.cache_storage,
        specials=(*negative, *(name for i, name in named if not listed.num_pictures(i))),
        pictured={name: partial(listed.asked, i) for i, name in named if listed.num_pictures(i)},
    )
