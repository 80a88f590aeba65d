"""Encoding the pictures of a preset once: the trainer then reads latents, and the autoencoder rests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from piflow_cli.core.interfaces import Space
from piflow_cli.data.shards.encoding import LatentReport, PictureSet, encode_shards
from piflow_cli.data.shards.latents import check_encoder
from piflow_cli.engine.plan.checks import check_sizes
from piflow_cli.engine.students.device import resolve_device
from piflow_cli.errors import PresetError
from piflow_cli.io.files import writable_folder
from piflow_cli.io.texts.names import user_path
from piflow_cli.preset import Preset


def latents_folder(preset: Preset) -> Path | None:
    """Where the preset's pictures are encoded to, None where they are not."""
    return user_path(preset.data.latents) if preset.data.latents else None


@dataclass(frozen=True)
class PictureEncoder:
    """A teacher's autoencoder, loaded without its network, and what it is to encode into which folder."""

    folder: Path
    space: Space
    pictures: PictureSet
    fingerprint: str

    def fill(
        self, *, on_progress: Callable[[int, int], None] = lambda _done, _total: None, verify: bool = True
    ) -> LatentReport:
        """Encode what is not in the folder yet; arguments and errors as `cache_latents`."""
        options = {"encoder": self.fingerprint, "on_progress": on_progress, "verify": verify}
        return encode_shards(self.folder, self.pictures, self.space, **options)


def cache_latents(
    preset: Preset,
    *,
    device: str | torch.device = "auto",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    verify: bool = True,
) -> LatentReport:
    """Encode every picture of a preset into data.latents, in float32; what is there and whole is kept.

    Any number of processes may do it at once, and a stopped one leaves whole shards behind.

    Args:
        preset: names the pictures (data.path), the folder (data.latents) and the teacher whose autoencoder to use.
        device: auto, cpu, cuda, cuda:N, mps, or a torch device.
        on_progress: called with the pictures done and all pictures.
        verify: compare the checksums of all shards that are there, not only their sizes.

    Raises:
        DataError: the folder holds other latents, or hardly any picture decodes.
        PresetError, DataError, ModelError, StorageError: as `check_encodable` and `open_picture_encoder`.
    """
    check_encodable(preset)
    return open_picture_encoder(preset, device=device).fill(on_progress=on_progress, verify=verify)


def check_encodable(preset: Preset) -> None:
    """Refuse what can be refused before the autoencoder loads.

    Raises:
        PresetError: the preset encodes no pictures, or the teacher has no latents of them.
        DataError: they are not there.
        StorageError: the folder cannot be written.
    """
    folder = latents_folder(preset)
    if folder is None:
        raise PresetError(
            "data.latents names no folder; set it to encode the pictures of data.type images or captioned: "
            "--set data.latents=FOLDER"
        )
    check_sizes(preset)
    preset.data.check_source()
    writable_folder(folder)


def open_picture_encoder(preset: Preset, *, device: str | torch.device) -> PictureEncoder:
    """Load the autoencoder of a preset that encodes its pictures, and list them.

    Raises:
        DataError: the pictures cannot be listed.
        ModelError: the autoencoder cannot be loaded.
    """
    target = device if isinstance(device, torch.device) else resolve_device(device)
    space = preset.teacher.load_space(device=target, dtype=torch.float32, encoders=False)
    pictures = preset.data.pictures(space)
    folder = user_path(preset.data.latents)
    return PictureEncoder(folder, space, pictures, preset.teacher.autoencoder_fingerprint())


def fill_latents(preset: Preset, *, device: torch.device, on_progress: Callable[[int, int], None]) -> None:
    """Fill the preset's latents before its transformer is loaded, where it names a folder for them.

    Raises:
        DataError: the folder's latents, or those of data.path, are of another autoencoder; and as `cache_latents`.
    """
    if latents_folder(preset) is not None:
        cache_latents(preset, device=device, on_progress=on_progress, verify=False)
        return
    folder = preset.data.source_paths().get("path")
    if folder is not None and folder.is_dir() and preset.data.has_images and not preset.data.encodes_pictures:
        check_encoder(folder, preset.teacher.autoencoder_fingerprint())
