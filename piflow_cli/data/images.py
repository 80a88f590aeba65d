"""Pictures in one folder a class, as ImageNet is laid out: read, cropped to a square, and encoded as they are drawn."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from piflow_cli.core.interfaces import DataSource, Draw, Space
from piflow_cli.data.classes import match_classes
from piflow_cli.data.files.listing import class_folders
from piflow_cli.data.files.pictures import PictureFiles
from piflow_cli.data.latents import ShardSource, open_shards
from piflow_cli.data.noise import ClassData, check_classes
from piflow_cli.data.reading import (
    FEW_PICTURES,
    Labels,
    LeftOut,
    PictureBatch,
    PictureReader,
    encode_batch,
    plan_pictures,
)
from piflow_cli.data.shards.encoding import PictureSet
from piflow_cli.data.shards.latents import is_complete
from piflow_cli.errors import DataError
from piflow_cli.io.folders import is_picture, list_files, unread
from piflow_cli.io.images import SUFFIXES, cover, read_picture, to_tensor
from piflow_cli.io.texts.names import user_path


@dataclass(frozen=True)
class FolderSource(DataSource):
    """Picture files with their labels; `space` encodes them."""

    reader: PictureReader
    space: Space
    left_out: LeftOut = field(default_factory=LeftOut)
    class_names: dict[int, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    has_images = True

    @property
    def contents(self) -> str:
        """How many pictures."""
        return f"{len(self.reader.pictures):,} pictures in class folders"

    @property
    def reads_files(self) -> bool:
        """Whether there are more than a few."""
        return len(self.reader.pictures) > FEW_PICTURES

    @property
    def skipped(self) -> list[str]:
        """What was left out so far."""
        return self.left_out.names

    def plan(
        self,
        batch_size: int,
        generator: torch.Generator,
        *,
        size_px: tuple[int, int] | None = None,  # noqa: ARG002
    ) -> Draw:
        """Pictures drawn with replacement."""
        return plan_pictures(len(self.reader.pictures), batch_size, generator)

    def encode(self, batch: PictureBatch) -> tuple[Tensor, Tensor]:
        """Latents (B, C, H, W) and labels (B,).

        Raises:
            DataError: more than half of the pictures do not decode.
        """
        self.left_out.add(batch)
        return encode_batch(batch, self.space)


def read_square(path: Path, *, size_px: int, channels: int) -> Tensor:
    """A picture file as (channels, size_px, size_px) in [0, 1]: its middle, as large as the shorter side.

    Raises:
        DataError: it cannot be read, or does not decode.
    """
    return to_tensor(cover(read_picture(path), size_px=(size_px, size_px), channels=channels))


class Images(ClassData):
    """A folder with one folder of pictures a class, named as the teacher names it, by number, or in sorted order."""

    type: Literal["images"] = "images"
    has_images: ClassVar[bool] = True
    path: str = Field(description="folder that holds one folder of pictures a class")
    latents: str | None = Field(None, description="folder that pictures are encoded into, once; unset: in every step")

    @property
    def encodes_pictures(self) -> bool:
        """Whether pictures are encoded as they are drawn."""
        return self.latents is None

    def source_paths(self) -> dict[str, Path]:
        """The local files and folders that its samples are read from, by the key that names them."""
        return {"path": user_path(self.path)}

    def check_source(self) -> None:
        """Raise DataError where there is no such folder."""
        if not user_path(self.path).is_dir():
            raise DataError(f"data.path {self.path} is no folder; it must hold one folder of pictures a class")

    def open(self, space: Space) -> FolderSource | ShardSource:
        """The files, or their latents where all of them are encoded.

        Raises:
            DataError: no pictures, folders that are not the teacher's classes, one that cannot be read, or the
                teacher takes prompts.
        """
        check_classes(space)
        if self.latents is not None and is_complete(user_path(self.latents)):
            return open_shards(user_path(self.latents), space)
        found = self.pictures(space)
        return FolderSource(
            reader=found.reader,
            space=space,
            left_out=found.left_out,
            class_names=found.class_names,
            doubts=found.doubts,
        )

    def pictures(self, space: Space) -> PictureSet:
        """The files with their labels; errors as `open`."""
        check_classes(space)
        self.check_source()
        root = user_path(self.path)
        folders, beside = class_folders(root)
        classes = match_classes([folder.name for folder in folders], space, root=root)
        listings = [list_files(folder) for folder in folders]
        labelled = zip(classes.labels, listings, strict=True)
        files = [(path, label) for label, found in labelled for path in found.files if is_picture(path)]
        if not files:
            raise DataError(f"data.path {self.path} has no pictures in class folders ({', '.join(sorted(SUFFIXES))})")
        loose = [f"{p} (in no class folder)" for p in sorted(root.iterdir()) if is_picture(p) and p.is_file()]
        empty = [
            f"{folder} (class {label}, without pictures)"
            for label, folder, found in zip(classes.labels, folders, listings, strict=True)
            if not any(map(is_picture, found.files))
        ]
        others = [name for found in listings for name in (*found.left_out, *unread(found.files))]
        paths, labels = zip(*files, strict=True)
        size = (space.image_size_px, space.image_size_px)
        return PictureSet(
            reader=PictureReader(PictureFiles(paths), Labels(labels), size, space.image_channels),
            root=root,
            class_names=classes.names,
            left_out=LeftOut([*beside, *loose, *empty, *others]),
            doubts=classes.doubts,
        )
