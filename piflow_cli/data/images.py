"""Pictures in one folder a class, as ImageNet is laid out: read, cropped to a square, and encoded as they are drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from piflow_cli.core.interfaces import DataSource, Space
from piflow_cli.core.settings import Settings
from piflow_cli.data.noise import check_classes, draw_indices
from piflow_cli.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class FolderSource(DataSource):
    """Picture files with their labels; `space` encodes them."""

    files: tuple[tuple[Path, int], ...]
    space: Space
    size_px: int
    channels: int

    has_images = True

    def draw(
        self,
        batch_size: int,
        generator: torch.Generator,
        *,
        size_px: tuple[int, int] | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Latents (B, C, H, W) and labels (B,), drawn with replacement."""
        chosen = [self.files[i] for i in draw_indices(len(self.files), batch_size, generator).tolist()]
        pictures = torch.stack([read_square(path, size_px=self.size_px, channels=self.channels) for path, _ in chosen])
        seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        posterior = torch.Generator(self.space.device).manual_seed(seed)
        latents = self.space.encode_images(pictures, generator=posterior)
        return latents, torch.tensor([label for _, label in chosen])


def read_square(path: Path, *, size_px: int, channels: int) -> Tensor:
    """A picture as (channels, size_px, size_px) in [0, 1]: shorter side resized, centre cropped.

    Raises:
        DataError: the file does not decode.
    """
    try:
        with Image.open(path) as image:
            image = image.convert("L" if channels == 1 else "RGB")
            scale = size_px / min(image.size)
            size = (max(size_px, round(image.width * scale)), max(size_px, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
            left, top = (image.width - size_px) // 2, (image.height - size_px) // 2
            pixels = np.asarray(image.crop((left, top, left + size_px, top + size_px)), dtype=np.float32)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} does not decode as a picture: {error}") from None
    return torch.from_numpy(pixels / 255).reshape(size_px, size_px, channels).permute(2, 0, 1)


class Images(Settings):
    """A folder with one folder of pictures a class; classes are the folders in sorted order."""

    type: Literal["images"] = "images"
    has_images: ClassVar[bool] = True
    cache: ClassVar[None] = None
    path: str = Field(description="folder that holds one folder of pictures a class")

    def check_source(self) -> None:
        """Raise DataError where there is no such folder."""
        if not Path(self.path).expanduser().is_dir():
            raise DataError(f"data.path {self.path} is no folder; it must hold one folder of pictures a class")

    def open(self, space: Space) -> FolderSource:
        """The files.

        Raises:
            DataError: no pictures, more folders than the teacher has classes, or the teacher takes prompts.
        """
        check_classes(space)
        self.check_source()
        root = Path(self.path).expanduser()
        folders = sorted(p for p in root.iterdir() if p.is_dir())
        files = tuple(
            (path, label)
            for label, folder in enumerate(folders)
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in SUFFIXES
        )
        if not files:
            raise DataError(f"data.path {self.path} has no pictures in class folders ({', '.join(sorted(SUFFIXES))})")
        if len(folders) > space.num_classes:
            raise DataError(f"{root} has {len(folders)} class folders; this teacher has {space.num_classes} classes")
        return FolderSource(files=files, space=space, size_px=space.image_size_px, channels=space.image_channels)
