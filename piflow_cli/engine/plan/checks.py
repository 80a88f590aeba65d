"""What is refused of a run before any weights are read: sizes, trackers, and what its sources say of themselves."""

from __future__ import annotations

from piflow_cli.core.settings import AskedPrompt
from piflow_cli.data.prompt_lists import PromptList, list_prompts
from piflow_cli.errors import DataError, MissingExtraError, PresetError
from piflow_cli.io.texts.names import user_path
from piflow_cli.preset import Preset


def check_at_once(preset: Preset) -> None:
    """Raise where it can be said without reading weights that a run will fail.

    Raises:
        PresetError: a size that the teacher has no latents of, or a tracker that nobody knows.
        MissingExtraError: a tracker that is not installed, or what the data needs.
        DataError: the data, or a reference picture of the validation, is not there.
        ModelError: the teacher is not there, lacks files, or leaves something open.
    """
    check_trackers(preset)
    check_sizes(preset)
    check_references(preset)
    preset.data.check_source()
    preset.teacher.check_source(pictures=draws_pictures(preset))


def draws_pictures(preset: Preset) -> bool:
    """Whether a run encodes or decodes pictures, which takes an autoencoder or a network on pixels."""
    shows = preset.training.preview_every > 0 or preset.validation.every > 0
    return preset.data.encodes_pictures or shows


def check_sizes(preset: Preset) -> None:
    """Raise PresetError for a size, of the teacher or of an aspect bucket, that its autoencoder cannot do.

    Data of the other kind of conditions, and what is of pictures alone where the teacher draws videos, are refused
    too. It goes by the autoencoder's config, and by the published one where the source is not on this machine.
    """
    _check_conditions(preset)
    _check_videos(preset)
    named, frames = [("data.resolutions", size) for size in preset.data.sizes_px], preset.teacher.frame_factor
    if preset.teacher.size_px is not None:
        keys = "teacher.width, teacher.height" + (", teacher.frames" if frames is not None else "")
        named.insert(0, (keys, preset.teacher.size_px))
    for key, (width, height) in named:
        try:
            preset.teacher.check_size(width, height)
        except DataError as error:
            raise PresetError(f"{key} {width}x{height}: {error}. Pictures of this size have no latents.") from None


def _check_conditions(preset: Preset) -> None:
    """Raise PresetError for classes where the teacher takes prompts, and for prompts where it takes classes."""
    classes, labels = preset.teacher.size_px is None, preset.data.cache_storage is None
    if classes == labels:
        return
    takes, fitting = ("class labels", "noise, images or latents") if classes else ("prompts", "prompts or captioned")
    raise PresetError(
        f"data.type: the teacher takes {takes}, and this data has the other kind; set another, such as {fitting}"
    )


def _check_videos(preset: Preset) -> None:
    """Raise PresetError for what is made of pictures where the teacher draws videos."""
    frames = preset.teacher.num_frames
    if frames > 1 and preset.validation.samples:
        raise PresetError(
            f"validation.samples {preset.validation.samples}: its metrics are of pictures, and teacher.frames is "
            f"{frames}. Set it to 0; the paired error is of stills of the videos."
        )


def check_references(preset: Preset) -> None:
    """Raise where a run will fail by its reference pictures.

    Raises:
        PresetError: the teacher takes none, more or fewer, or needs some and the data has none.
        DataError: one of the validation's is not there, or cannot be read.
    """
    fewest, most = preset.teacher.num_pictures
    if preset.data.references is not None and most == 0:
        raise PresetError(
            f"data.references: {preset.teacher.source} makes pictures of prompts alone; leave the key out, or take a "
            "teacher that edits"
        )
    if preset.data.references is None and fewest > 0:
        raise PresetError(
            f"{preset.teacher.source} edits pictures: name the field of the rows that says which in data.references, "
            'with data.type = "prompts" or "captioned"'
        )
    for prompt in preset.validation.prompts:
        _check_asked(prompt, preset)
    listed = validated_prompts(preset)
    for number in range(len(listed)):
        listed.asked(number)  # which refuses what cannot be read


def _check_asked(prompt: AskedPrompt, preset: Preset) -> None:
    """Raise PresetError where the teacher takes more or fewer reference pictures than one of the prompts has."""
    (fewest, most), count = preset.teacher.num_pictures, len(prompt.references)
    if fewest <= count <= most:
        return
    said, source = f"validation.prompts: {prompt.prompt[:40]!r} names", preset.teacher.source
    if most == 0:
        raise PresetError(
            f"{said} reference pictures, and {source} makes pictures of prompts alone; leave its references out"
        )
    if count == 0:
        raise PresetError(
            f"{said} no reference picture, and {source} makes nothing of a prompt without one; write "
            '{prompt = "...", references = "FILE"}, or leave the key out: then they are '
            "the data's first prompts, with their pictures"
        )
    raise PresetError(f"{said} {count} reference pictures; {source} takes {fewest} to {most} of a prompt")


def validated_prompts(preset: Preset) -> PromptList:
    """The prompts that a preset's validation names, with their reference pictures; none where it does not validate.

    Raises:
        DataError: a picture is not there.
    """
    asked = preset.validation
    rows = [(item.prompt, [*map(user_path, item.references)]) for item in asked.prompts if asked.every]
    size_px = next(iter(preset.data.references_px), None)
    return list_prompts(rows, name="validation.prompts", size_px=size_px)


def check_trackers(preset: Preset) -> None:
    """Raise PresetError for a tracker that accelerate does not know, MissingExtraError for one that is not here."""
    if not preset.training.trackers:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    here = {str(tracker) for tracker in get_available_trackers()}
    for name in preset.training.trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise PresetError(f"training.trackers: {name!r} is no tracker of accelerate; one of {known}")
        if name not in here:
            raise MissingExtraError(
                f"training.trackers: {name} is not installed, and nothing would be logged there: pip install {name}, "
                f"or leave it out (--set 'training.trackers=[]'). Installed here: {', '.join(sorted(here)) or 'none'}. "
                "metrics.jsonl in the run's folder is written in any case."
            )
