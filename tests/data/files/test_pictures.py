"""Captioned pictures come out of every layout with their own captions, and faults of a layout are named."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from piflow_cli.data.files.pictures import CaptionedPictures, decode_picture, open_pictures
from piflow_cli.errors import DataError

COUNT = 5
CAPTIONS = [f"a picture of grey {i} é" for i in range(COUNT)]


def picture(grey: int, *, kind: str = "PNG", size: tuple[int, int] = (12, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (grey * 40,) * 3).save(file, kind)
    return file.getvalue()


def in_metadata(root: Path) -> None:
    (root / "images").mkdir(parents=True)
    rows = [{"file_name": f"images/{i}.png", "text": text} for i, text in enumerate(CAPTIONS)]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for i in range(COUNT):
        (root / "images" / f"{i}.png").write_bytes(picture(i))


def in_folder(root: Path) -> None:
    (root / "sub").mkdir(parents=True)
    for i, text in enumerate(CAPTIONS):
        folder = root if i < 3 else root / "sub"
        (folder / f"{i}.PNG").write_bytes(picture(i))
        (folder / f"{i}.txt").write_text(text + "\n", encoding="utf-8")


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def in_tars(root: Path, *, as_json: bool = False) -> None:
    root.mkdir()
    for shard, numbers in (("b", (3, 4)), ("a", (0, 1, 2))):
        files = {}
        for i in numbers:
            content = json.dumps({"caption": CAPTIONS[i], "id": i}) if as_json else CAPTIONS[i]
            files[f"d/{i}.{'json' if as_json else 'txt'}"] = content.encode()
            files[f"d/{i}.png"] = picture(i)
        write_tar(root / f"{shard}.tar", files)


def in_json_tars(root: Path) -> None:
    in_tars(root, as_json=True)


def in_parquet(root: Path) -> None:
    root.mkdir()
    for name, numbers in (("b", (3, 4)), ("a", (0, 1, 2))):
        images = [{"bytes": picture(i), "path": None} for i in numbers]
        table = pa.table({"image": images, "caption": [CAPTIONS[i] for i in numbers]})
        pq.write_table(table, root / f"{name}.parquet", row_group_size=2)


def opened(root: Path, *, column: str | None = None) -> CaptionedPictures:
    return open_pictures(root, column=column, image_column="image")


@pytest.mark.parametrize("write", [in_metadata, in_folder, in_tars, in_json_tars, in_parquet])
def test_every_layout_gives_pictures_with_their_captions(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "set")
    found = opened(tmp_path / "set")
    assert [found.captions[i] for i in range(len(found.captions))] == CAPTIONS
    assert found.without_caption == ()
    for i in (4, 0, 3, 1, 2):
        assert found.pictures.content(i) == picture(i)
    assert len({found.pictures.name(i) for i in range(COUNT)}) == COUNT


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_a_single_shard_will_do(tmp_path: Path, suffix: str) -> None:
    {".tar": in_tars, ".parquet": in_parquet}[suffix](tmp_path / "set")
    found = opened(tmp_path / "set" / f"b{suffix}")
    assert [found.captions[i] for i in range(2)] == CAPTIONS[3:]


def test_pictures_without_captions_are_named(tmp_path: Path) -> None:
    in_folder(tmp_path / "set")
    (tmp_path / "set" / "0.txt").unlink()
    found = opened(tmp_path / "set")
    assert found.without_caption == (str(tmp_path / "set" / "0.PNG"),)
    assert found.captions[0] == CAPTIONS[1]
    assert found.pictures.content(0) == picture(1)
    write_tar(tmp_path / "one.tar", {"a.jpg": b"1", "b.jpg": b"2", "b.txt": b"two", "c.txt": b"three"})
    found = opened(tmp_path / "one.tar")
    assert found.without_caption == (f"{tmp_path / 'one.tar'}:a",)
    assert (len(found.captions), found.captions[0], found.pictures.content(0)) == (1, "two", b"2")


def test_keys_end_at_the_first_dot(tmp_path: Path) -> None:
    write_tar(tmp_path / "one.tar", {"a.v1/k.jpg": b"1", "a.v1/k.txt": b"one", "a.v1/k.cls.json": b"{", "a.v1/.x": b""})
    found = opened(tmp_path / "one.tar")
    assert found.captions[0] == "one"
    assert found.pictures.name(0) == f"{tmp_path / 'one.tar'}:a.v1/k"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "set has no pictures with captions"),
        ({"a.png": b""}, "set has no pictures with captions"),
        ({"a.png": b"", "a.txt": b"\xff"}, r"caption of .*a.txt is not UTF-8"),
        ({"metadata.jsonl": b'{"text": "a"}'}, r"metadata.jsonl:1 has no text in 'file_name'; it has 'text'"),
        ({"metadata.jsonl": b'{"file_name": "a.png", "title": "a"}'}, r"metadata.jsonl:1 has no column 'prompt'"),
        ({"metadata.jsonl": b""}, "set has no pictures with captions"),
        ({"a.tar": b"not a tar at all"}, r"a.tar cannot be read as a tar"),
        ({"a.parquet": b"PAR1"}, r"a.parquet cannot be read as parquet"),
    ],
)
def test_bad_layouts_are_named(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    (tmp_path / "set").mkdir()
    for name, content in files.items():
        (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "set")


def test_a_compressed_or_truncated_tar_is_refused(tmp_path: Path) -> None:
    in_tars(tmp_path / "set")
    path = tmp_path / "set" / "a.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    with pytest.raises(DataError, match=r"a.tar cannot be read as a tar.*has to be whole"):
        opened(path)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "set" / "b.tar", "x.png")
    with pytest.raises(DataError, match="not compressed"):
        opened(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"k.png": b"", "k.json": b"{"}, r"one.tar:k.json is not JSON"),
        ({"k.png": b"", "k.json": b'{"title": "a"}'}, r"one.tar:k.json has no column 'prompt'.*it has 'title'"),
        ({"k.png": b"", "k.txt": b"\xff"}, r"caption of .*one.tar:k is not UTF-8"),
    ],
)
def test_bad_captions_in_a_tar_are_named(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    write_tar(tmp_path / "one.tar", files)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "one.tar")


def test_a_picture_is_scaled_to_cover_and_cropped_at_its_centre() -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = 255  # the centre third
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    centre = decode_picture(file.getvalue(), size_px=(10, 10), channels=3)
    assert centre.shape == (3, 10, 10)
    assert (centre == 1).all()
    whole = decode_picture(file.getvalue(), size_px=(30, 10), channels=1)
    assert whole.shape == (1, 10, 30)
    assert whole[0, 5].tolist() == [0.0] * 10 + [1.0] * 10 + [0.0] * 10


@pytest.mark.parametrize("size_px", [(8, 4), (4, 8), (30, 7), (7, 30), (1, 1)])
def test_any_size_comes_out_exactly(size_px: tuple[int, int]) -> None:
    picture_of = decode_picture(picture(3, size=(13, 9)), size_px=size_px, channels=3)
    assert picture_of.shape == (3, size_px[1], size_px[0])
    torch.testing.assert_close(picture_of, torch.full_like(picture_of, 120 / 255))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_usual_formats_decode(kind: str) -> None:
    assert decode_picture(picture(2, kind=kind), size_px=(8, 8), channels=3).shape == (3, 8, 8)


@pytest.mark.parametrize(
    "content", [b"", b"no picture", picture(1)[:40], picture(1)[:-30], picture(1, kind="JPEG")[:100]]
)
def test_what_does_not_decode_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_picture(content, size_px=(8, 8), channels=3)
