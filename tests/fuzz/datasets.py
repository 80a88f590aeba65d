"""Attacks on data: prompts, pictures, captions beside them, tars, parquets, latents, references, cached embeddings."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hashed_text import fill
from PIL import Image
from pixel_space import PixelSpace
from safetensors.torch import save_file
from tiny_detector import save_detector

from fuzz import damage, values
from fuzz.case import Case, Target
from piflow_cli.data.asked import read_asked
from piflow_cli.data.captioned import Captioned
from piflow_cli.data.embeddings.cache import open_cache
from piflow_cli.data.images import Images
from piflow_cli.data.latents import Latents
from piflow_cli.data.prompt_lists import read_prompt_list
from piflow_cli.data.prompts import Prompts
from piflow_cli.io.images import read_picture
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.detectors.reference import load_reference
from piflow_cli.teachers.dit.space import DiTSpace

CAPTIONS = ("a red bicycle", "两只猫", "an armchair\tof glass", "x" * 400)
CLASSES = DiTSpace(labels={i: str(i) for i in range(3)}, latent_shape=(1, 8, 8))


def _picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (12, 8), **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], len(mode)), dtype=np.uint8).squeeze()
    Image.fromarray(pixels, mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _pictures(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "a.png": _picture("PNG"), "b.jpg": _picture("JPEG", exif=exif), "c.webp": _picture("WEBP", "RGBA"),
        "d.bmp": _picture("BMP"), "e.tif": _picture("TIFF", "CMYK"), "f.png": _picture("PNG", "RGBA"),
    }  # fmt: skip
    for name, content in kinds.items():
        (folder / name).write_bytes(content)
    frames = [Image.new("P", (9, 9), colour) for colour in (1, 2)]
    frames[0].save(folder / "g.gif", save_all=True, append_images=frames[1:], transparency=1)
    Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600).save(folder / "h.png")
    Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600).save(folder / "i.tif", compression="tiff_lzw")


def _one_picture(rng: random.Random, folder: Path) -> str:
    name = rng.choice(sorted(path.name for path in folder.iterdir()))
    damage.file(rng, folder / name)
    return name


def _prompts(folder: Path) -> None:
    (folder / "p.txt").write_text("\n".join(CAPTIONS) + "\n", encoding="utf-8")
    rows = [{"prompt": text, "seed": i, "label": i} for i, text in enumerate(CAPTIONS)]
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with (folder / "p.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("prompt", "seed"), *((text, i) for i, text in enumerate(CAPTIONS))])


READERS: dict[str, Callable[[str], Any]] = {
    "asked": read_asked,
    "list": read_prompt_list,
    "data": lambda path: Prompts(path=path).open(PixelSpace()).draw(2, torch.Generator().manual_seed(0)),
}


def _one_list(rng: random.Random, folder: Path) -> tuple[str, str]:
    name = rng.choice(("p.txt", "p.jsonl", "p.csv"))
    damage.file(rng, folder / name) if rng.random() < 0.9 else damage.folder(rng, folder)
    name = name if rng.random() < 0.97 else rng.choice(values.TEXTS)
    return "asked" if name == "p.csv" else rng.choice(list(READERS)), name


def _read_list(case: Case, asked: tuple[str, str]) -> None:
    reader, name = asked
    path = str(case.given / name)
    READERS[reader](path)


def _captioned(folder: Path) -> None:
    for i, text in enumerate(CAPTIONS):
        (folder / f"{i}.png").write_bytes(_picture("PNG"))
        (folder / f"{i}{('.txt', '.caption', '.json')[i % 3]}").write_text(json.dumps({"caption": text}))


def _metadata(folder: Path) -> None:
    for i in range(len(CAPTIONS)):
        (folder / f"{i}.png").write_bytes(_picture("PNG"))
    rows = [json.dumps({"file_name": f"{i}.png", "text": text}) for i, text in enumerate(CAPTIONS)]
    (folder / "metadata.jsonl").write_text("\n".join(rows))


def _table(folder: Path) -> None:
    for i in range(len(CAPTIONS)):
        (folder / f"{i}.png").write_bytes(_picture("PNG"))
    rows = [f"{i}.png,{text!r}" for i, text in enumerate(CAPTIONS)]
    (folder / "metadata.csv").write_text("file_name,text\n" + "\n".join(rows), encoding="utf-8")


def _tars(folder: Path) -> None:
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i, text in enumerate(CAPTIONS):
            for name, content in ((f"{i}.png", _picture("PNG")), (f"{i}.json", json.dumps({"text": text}).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _parquets(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": _picture("PNG"), "path": None} for _ in CAPTIONS]
    pq.write_table(pa.table({"image": images, "text": list(CAPTIONS)}), folder / "0.parquet")


def _attack_parquet(rng: random.Random, folder: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "0.parquet"
    if rng.random() < 0.7:
        damage.file(rng, path)
        return "bytes"
    count, kinds = rng.choice((0, 1, 4)), {}
    for name in ("image", "text"):
        kinds[rng.choice((name, name, name, "", "猫", "a" * 300))] = rng.choice((
            pa.array([b"x"] * count), pa.array(["x"] * count), pa.array([1] * count), pa.array([None] * count),
            pa.array([[_picture("PNG")]] * count), pa.array([{"bytes": 1}] * count),
            pa.array([{"path": "/etc/passwd"}] * count),
            pa.array([{"bytes": None, "path": "../../x.png"}] * count), pa.array(["x"] * count).dictionary_encode(),
            pa.array([1.5] * count), pa.array([b"\xff"] * count, pa.large_binary()),
        ))  # fmt: skip
    pq.write_table(pa.table(kinds), path, compression=rng.choice(("snappy", "zstd", "none", "gzip")))
    return str({name: str(kind.type) for name, kind in kinds.items()})


def _any_file(rng: random.Random, folder: Path) -> str:
    return "; ".join(damage.folder(rng, folder))


def _draw_captioned(case: Case, _what: object) -> None:
    source = Captioned(path=str(case.given)).open(PixelSpace())
    source.draw(2, torch.Generator().manual_seed(0))
    source.preview(2)


def _classes(folder: Path) -> None:
    for name in ("0", "1", "2"):
        (folder / name).mkdir()
        (folder / name / "a.png").write_bytes(_picture("PNG"))
        (folder / name / "b.jpg").write_bytes(_picture("JPEG"))


def _draw_classes(case: Case, _what: object) -> None:
    Images(path=str(case.given)).open(CLASSES).draw(2, torch.Generator().manual_seed(0))


def _latents(folder: Path) -> None:
    for name, count in (("a", 3), ("b", 2)):
        tensors = {"latents": torch.zeros(count, 1, 8, 8), "labels": torch.arange(count)}
        save_file(tensors, folder / f"{name}.safetensors")


def _draw_latents(case: Case, _what: object) -> None:
    Latents(path=str(case.given)).open(CLASSES).draw(4, torch.Generator().manual_seed(0))


def _shards(folder: Path) -> None:
    space = PixelSpace()
    prompts = {"prompts": json.dumps(CAPTIONS[:2])}
    save_file({"latents": torch.zeros(2, *space.latent_shape)}, folder / "a.safetensors", metadata=prompts)


def _references(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(90, 64, generator=generator)
    tensors = {"mean": features.mean(0).double(), "cov": torch.cov(features.T).double(), "features": features}
    metadata = {"name": "x", "detector": "digits-cnn", "num_samples": "90"}
    save_file(tensors, folder / "r.safetensors", metadata=metadata)
    np.savez(folder / "r.npz", mu=np.zeros(64), sigma=np.eye(64))
    (folder / "real").mkdir()
    for name in ("a.png", "b.png"):
        (folder / "real" / name).write_bytes(_picture("PNG", size=(8, 8)))


def _one_reference(rng: random.Random, folder: Path) -> str:
    name = rng.choice(("r.npz", "r.npz", "r.safetensors", "r.safetensors", "real"))
    damage.folder(rng, folder / name) if name == "real" else damage.file(rng, folder / name)
    return name


@functools.cache
def _detector() -> Any:
    return load_detector("digits-cnn")


def _read_reference(case: Case, name: str) -> None:
    load_reference(str(case.given / name), detector=_detector())


def _detectors(folder: Path) -> None:
    save_detector(folder / "d.pt")


def _one_detector(rng: random.Random, folder: Path) -> str:
    damage.file(rng, folder / "d.pt")
    name = str(folder / "d.pt")
    others = ("#sha256=" + "0" * 64, "#sha256=x", "#", "#sha256=" + "é" * 64)
    return rng.choice((name, *(name + other for other in others), "http://[::1", "ftp://x/y", f"file://{name}"))


def _load_detector(case: Case, name: str | None) -> None:
    own = hashlib.sha256((case.given / "d.pt").read_bytes()).hexdigest()
    load_detector(name or f"{case.given / 'd.pt'}#sha256={own}")


def _cache(folder: Path) -> None:
    fill(folder, 6)


def _read_cache(case: Case, _what: object) -> None:
    reader = open_cache(case.given)
    reader.rows(range(min(len(reader), 6)))
    reader.special("")


def _data(build: Callable[[Path], None], run: Callable[[Case, Any], Any]) -> Target:
    return Target(build, _any_file, run)


TARGETS = {
    "picture": Target(_pictures, _one_picture, lambda case, name: read_picture(case.given / name), usual="a.png"),
    "prompts": Target(_prompts, _one_list, _read_list, usual=("list", "p.jsonl")),
    "captioned": _data(_captioned, _draw_captioned),
    "metadata": _data(_metadata, _draw_captioned),
    "table": _data(_table, _draw_captioned),
    "tar": _data(_tars, _draw_captioned),
    "parquet": Target(_parquets, _attack_parquet, _draw_captioned),
    "classes": _data(_classes, _draw_classes),
    "latents": _data(_latents, _draw_latents),
    "shards": _data(_shards, _draw_captioned),
    "reference": Target(_references, _one_reference, _read_reference, usual="r.npz"),
    "detector": Target(_detectors, _one_detector, _load_detector),
    "embeddings": _data(_cache, _read_cache),
}
