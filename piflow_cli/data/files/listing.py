"""Data sets as the hub lays them out: of several splits the one for training, and folders that are classes."""

import re
from collections.abc import Iterable
from pathlib import Path

from piflow_cli.io.folders import is_clip, is_picture, is_visible

TRAINING = frozenset({"train", "training"})
HELD_OUT = frozenset({"validation", "valid", "val", "dev", "test", "testing", "eval"})
SHARD_SPLIT = re.compile(rf"({'|'.join(sorted(TRAINING | HELD_OUT, key=len, reverse=True))})(?![a-z])")


def training_split(root: Path, paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The files to train on, and the names of those of other splits.

    Names of folders say the split (`train/`, `validation/`), and for shards the start of the file's name
    (`train-00000-of-00003.parquet`), as data sets on the hub have it. Where no file is for training, all are taken.
    """
    paths = list(paths)
    splits = [_split(path.relative_to(root)) for path in paths]
    if not TRAINING & set(splits):
        return paths, []
    taken = [path for path, split in zip(paths, splits, strict=True) if split not in HELD_OUT]
    dropped = [f"{path} (split {split})" for path, split in zip(paths, splits, strict=True) if split in HELD_OUT]
    return taken, dropped


def _split(path: Path) -> str | None:
    """The split that a path below the root names, in lower case."""
    *folders, name = path.parts
    found = next((part.lower() for part in folders if part.lower() in TRAINING | HELD_OUT), None)
    if found or is_picture(path) or is_clip(path):
        return found
    match = SHARD_SPLIT.match(name.lower())
    return match[1] if match else None


def class_folders(root: Path) -> tuple[list[Path], list[str]]:
    """The folders of classes in sorted order, and the names of what lies beside them.

    A root whose folders are splits, such as ImageNet's `train` and `val`, has its classes in the one for training.
    """
    folders = sorted(p for p in root.iterdir() if p.is_dir() and is_visible(p.name))
    names = {folder.name.lower(): folder for folder in folders}
    training = next((names[name] for name in sorted(TRAINING & names.keys())), None)
    if training is None or not names.keys() <= TRAINING | HELD_OUT:
        return folders, []
    inside = sorted(p for p in training.iterdir() if p.is_dir() and is_visible(p.name))
    if not inside:  # a class of this name
        return folders, []
    return inside, [f"{folder} (split {folder.name})" for folder in folders if folder != training]
