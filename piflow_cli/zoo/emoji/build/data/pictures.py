# The open emoji sets as one packed array: Noto, Twemoji and Fluent 3D on white, with names and keywords, some held out.
# N pictures.

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save
from safetensors.torch import load_file
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.io.files import writable_folder, write_atomic
from piflow_cli.zoo.emoji.build.data.download import FLUENT, NAMES, NOTO, PACKAGES, TWEMOJI, fetch_package

SIZE_PX = 64
STYLES = ("noto", "flat", "3d")
"""The style words of the captions, in the order of `Pictures.style`: Noto, Twemoji, Fluent."""
HELD_OUT_PERCENT = 5
NEEDED_BYTES = 400_000_000
FOLDERS = {
    "noto": (NOTO, "package/img/google/64/"),
    "flat": (TWEMOJI, "package/img/twitter/64/"),
    "3d": (FLUENT, "package/assets/"),
}
VARIATION_SELECTOR = "fe0f"


@dataclass(frozen=True)
class Emoji:
    """One emoji, whoever drew it.

    `key` is its code points in hex without variation selectors; `base` the key without skin tones; `label`, `tags`,
    `group` and `subgroup` are Unicode's English name, keywords and place, the last with the skin tones in the label.
    """

    key: str
    base: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str


@dataclass(frozen=True)
class Pictures:
    """All pictures in memory.

    `images` (N, 3, 64, 64) uint8 on white, `emoji` what each shows (N of them), `style` (N,) int64 index into STYLES,
    `held_out` (N,) bool.
    """

    images: Tensor
    emoji: tuple[Emoji, ...]
    style: Tensor
    held_out: Tensor

    def __len__(self) -> int:
        return len(self.images)


def emoji_key(name: str) -> str:
    """Code points of a file's or record's name, lower case, without leading zeros and variation selectors."""
    points = (point.lstrip("0") for point in name.lower().replace("_", "-").split("-"))
    return "-".join(point for point in points if point != VARIATION_SELECTOR)


def is_held_out(base: str) -> bool:
    """Whether an emoji, in all styles and skin tones, is kept from training: 5% of them, by a hash of the key."""
    return int.from_bytes(hashlib.sha256(base.encode()).digest()[:8]) % 100 < HELD_OUT_PERCENT


def parse_names(records: list[dict], groups: dict) -> dict[str, Emoji]:
    """Emoji by key from Emojibase's `en/data.json` and `meta/groups.json`; letters without a group are left out."""
    found: dict[str, Emoji] = {}
    for record in records:
        if "group" not in record:
            continue
        base = emoji_key(record["hexcode"])
        for form in (record, *record.get("skins", ())):
            key = emoji_key(form["hexcode"])
            found[key] = Emoji(
                key=key,
                base=base,
                label=form["label"],
                tags=tuple(record.get("tags", ())),
                group=groups["groups"][str(record["group"])],
                subgroup=groups["subgroups"][str(record["subgroup"])],
            )
    return found


def render(content: bytes, size_px: int = SIZE_PX) -> np.ndarray:
    """A picture file on white, made square, as (3, size_px, size_px) uint8."""
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGBA")
    side = max(picture.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    if side != size_px:
        canvas = canvas.resize((size_px, size_px), Image.Resampling.BOX if side % size_px == 0 else Image.LANCZOS)
    return np.ascontiguousarray(np.asarray(canvas.convert("RGB")).transpose(2, 0, 1))


def read_files(tarball: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files directly in `folder` of a tarball, by name; nothing is unpacked to the disk."""
    with tarfile.open(tarball) as archive:
        members = [m for m in archive if m.isfile() and m.name.startswith(folder) and "/" not in m.name[len(folder) :]]
        for member in sorted(members, key=lambda m: m.name):
            file = archive.extractfile(member)
            assert file is not None, "a plain file"
            yield member.name[len(folder) :], file.read()


def build_data(folder: Path, *, registry: str) -> Path:
    """Download what is missing, draw every picture at 64x64 on white and pack them; gives the data folder.

    Args:
        folder: the work folder; tarballs go to `packages`, the result to `data`.
        registry: from `find_registry`.

    Raises:
        StorageError: the folder cannot be written, or has less than 400 MB free.
        PiflowError: a package cannot be had.
    """
    writable_folder(folder, needed_bytes=NEEDED_BYTES)
    tarballs = {p.name: fetch_package(p, folder / "packages", registry=registry) for p in PACKAGES}
    records = dict(read_files(tarballs[NAMES.name], "package/en/"))["data.json"]
    groups = dict(read_files(tarballs[NAMES.name], "package/meta/"))["groups.json"]
    known = parse_names(json.loads(records), json.loads(groups))
    rows: list[tuple[str, str]] = []
    images: list[np.ndarray] = []
    for style, (package, inside) in FOLDERS.items():
        drawn: set[str] = set()
        for name, content in read_files(tarballs[package.name], inside):
            key = emoji_key(name.rsplit(".", 1)[0])
            if key in known and key not in drawn:
                drawn.add(key)
                rows.append((key, style))
                images.append(render(content))
    used = sorted({key for key, _ in rows})
    about = {
        "size_px": SIZE_PX,
        "sources": {f"{p.name} {p.version}": p.licence for p in PACKAGES},
        "emoji": [asdict(known[key]) for key in used],
        "pictures": [[used.index(key), style] for key, style in rows],
    }
    data = folder / "data"
    write_atomic(data / "pictures.safetensors", save({"images": np.ascontiguousarray(np.stack(images))}))
    write_atomic(data / "emoji.json", json.dumps(about, ensure_ascii=False, indent=0) + "\n")
    return data


def load_data(folder: Path) -> Pictures:
    """The pictures that `build_data` packed in the work folder.

    Raises:
        DataError: there are none.
    """
    data = folder / "data"
    if not (data / "emoji.json").exists():
        raise DataError(f"no emoji in {data}. Run `python -m piflow_cli.zoo.emoji.build data --work {folder}` first.")
    about = json.loads((data / "emoji.json").read_text(encoding="utf-8"))
    known = [Emoji(**{**record, "tags": tuple(record["tags"])}) for record in about["emoji"]]
    emoji = tuple(known[index] for index, _ in about["pictures"])
    return Pictures(
        images=load_file(data / "pictures.safetensors")["images"],
        emoji=emoji,
        style=torch.tensor([STYLES.index(style) for _, style in about["pictures"]]),
        held_out=torch.tensor([is_held_out(e.base) for e in emoji]),
    )


def sampling_weights(emoji: tuple[Emoji, ...], style: Tensor) -> Tensor:
    """How often to draw each picture: an emoji's plain form once a style, all its skin tones together once more.

    Five to twenty-five tones of every person would otherwise be two thirds of the pictures.

    Returns:
        (N,) float64, summing to 1.
    """
    variants = Counter((e.base, int(s)) for e, s in zip(emoji, style, strict=True) if e.key != e.base)
    weights = [1.0 if e.key == e.base else 1.0 / variants[e.base, int(s)] for e, s in zip(emoji, style, strict=True)]
    return torch.tensor(weights, dtype=torch.float64) / sum(weights)
