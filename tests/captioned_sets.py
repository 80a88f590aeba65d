"""Pictures with captions in every layout that is read, and opening them."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from piflow_cli.data.files.pictures import CaptionedPictures, open_pictures

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


def write_files(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def by_caption(found: CaptionedPictures) -> dict[str, bytes]:
    return {text: found.pictures.content(row) for row, text in enumerate(found.captions)}


def write_table(path: Path, rows: list[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"file_name": name, "text": text}) for name, text in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([("file_name", "text"), *rows])
    else:
        pq.write_table(pa.table({"file_name": [n for n, _ in rows], "text": [t for _, t in rows]}), path)
