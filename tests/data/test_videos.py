"""Captioned videos of every layout: which files are taken, how they are drawn, and what becomes of those of no use."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_clips import FIRST, NEEDS_AV, STEP, animation, container, greys
from PIL import Image
from pixel_space import PixelSpace
from torch import Tensor

from piflow_cli.data.captioned import Captioned, CaptionedLatents, PictureSource
from piflow_cli.data.files import pictures as listed
from piflow_cli.data.shards.encoding import encode_shards
from piflow_cli.data.shards.latents import read_index
from piflow_cli.errors import DataError, MissingExtraError
from piflow_cli.io.clips import containers

CAPTIONS = ("one", "two", "three")


@dataclass
class VideoSpace(PixelSpace):
    """Videos of 16 x 8 pixels and 5 frames at 16 a second; latents are averages over squares, a frame each."""

    latent_shape: tuple[int, ...] = (3, 5, 4, 8)
    frames: int = 5
    fps: int = 16

    def encode_images(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Latents (1, 3, F, H, W) of one video (1, 3, F, 2 H, 2 W) in [0, 1]."""
        assert images.shape == (1, 3, self.frames, 8, 16)
        flat = images.transpose(1, 2).flatten(0, 1)
        latents = super().encode_images(flat, generator=generator)
        return latents.unflatten(0, (1, self.frames)).transpose(1, 2)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def opened(path: Path, space: PixelSpace | None = None, **keys: str) -> PictureSource | CaptionedLatents:
    return Captioned(path=str(path), **keys).open(space or VideoSpace())


def clips() -> list[bytes]:
    """Three videos: of frames 2 to 6 of greys, 0 to 4, and 1 to 5."""
    return [animation(greys(9)), animation(greys(5), kind="WEBP"), animation(greys(7))]


def in_folder(root: Path) -> Path:
    root.mkdir()
    for name, content, caption in zip(("a.gif", "b.webp", "c.d.GIF"), clips(), CAPTIONS, strict=True):
        (root / name).write_bytes(content)
        (root / name).with_suffix(".txt").write_text(caption)
    return root


def in_metadata(root: Path) -> Path:
    root.mkdir()
    rows = []
    for name, content, caption in zip(("a.gif", "b.webp", "c.gif"), clips(), CAPTIONS, strict=True):
        (root / name).write_bytes(content)
        rows.append(json.dumps({"file_name": name, "text": caption}))
    (root / "metadata.jsonl").write_text("\n".join(rows))
    return root


def in_table(root: Path) -> Path:
    in_metadata(root)
    rows = [json.loads(row) for row in (root / "metadata.jsonl").read_text().splitlines()]
    (root / "metadata.csv").write_text("file_name,text\n" + "".join(f"{r['file_name']},{r['text']}\n" for r in rows))
    (root / "metadata.jsonl").unlink()
    return root


def in_tar(root: Path) -> Path:
    """A picture of the first frame beside each, as downloaders leave them."""
    root.mkdir()
    still = io.BytesIO()
    greys(1)[0].save(still, "JPEG")
    with tarfile.open(root / "a.tar", "w") as tar:
        for i, (content, caption) in enumerate(zip(clips(), CAPTIONS, strict=True)):
            suffix = "webp" if i == 1 else "gif"
            for name, data in (
                (f"{i}.jpg", still.getvalue()),
                (f"{i}.{suffix}", content),
                (f"{i}.txt", caption.encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return root


def in_parquet(root: Path) -> Path:
    root.mkdir()
    pq.write_table(pa.table({"image": clips(), "text": list(CAPTIONS)}), root / "a.parquet")
    return root


@pytest.mark.parametrize("write", [in_folder, in_metadata, in_table, in_tar, in_parquet])
def test_every_layout_gives_videos_with_their_captions(tmp_path: Path, write: object) -> None:
    source = opened(write(tmp_path / "set"))
    assert source.contents == "3 videos with captions"
    latents, captions = source.draw(24, seeded())
    assert latents.shape == (24, 3, 5, 4, 8)
    assert set(captions) == set(CAPTIONS)
    first = {"one": 2, "two": 0, "three": 1}
    for latent, caption in zip(latents, captions, strict=True):
        shown = [((float(frame.mean()) + 1) / 2 * 255 - FIRST) / STEP for frame in latent.unbind(1)]
        assert shown == pytest.approx([first[caption] + n for n in range(5)], abs=0.2)


def test_a_draw_is_the_same_whenever_it_is_read(tmp_path: Path) -> None:
    in_folder(tmp_path / "set")
    (tmp_path / "set" / "b.webp").write_bytes(b"no video")
    one, two = (opened(tmp_path / "set").draw(8, seeded()) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert one[1] == two[1]
    assert "two" not in one[1]


def test_pictures_and_videos_of_no_use_are_named_with_the_reason(tmp_path: Path) -> None:
    root = in_folder(tmp_path / "set")
    greys(1)[0].save(root / "photo.png")
    (root / "photo.txt").write_text("a photo")
    (root / "b.webp").write_bytes(animation(greys(1), kind="WEBP"))
    (root / "c.d.GIF").write_bytes(animation(greys(3)))
    source = opened(root)
    assert source.skipped == [f"{root / 'photo.png'} (a picture, and the teacher draws videos)"]
    assert set(source.draw(12, seeded())[1]) == {"one"}
    named = "\n".join(source.skipped)
    assert f"{root / 'b.webp'} (it has one frame: it is a picture, and 5 at 16 a second, 0.25 s, are wanted" in named
    assert f"{root / 'c.d.GIF'} (it is too short: it has 3 frames in 0.12 s" in named


def test_videos_teach_no_teacher_of_pictures(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for name in ("a.mp4", "b.png"):
        (root / name).write_bytes(b"\0\0\0\x20ftypisom")
        (root / name).with_suffix(".txt").write_text(name)
    rows = [json.dumps({"file_name": name, "text": name}) for name in ("a.mp4", "b.png")]
    for meta in (None, "\n".join(rows)):
        if meta is not None:
            (root / "metadata.jsonl").write_text(meta)
        source = opened(root, PixelSpace())
        assert source.contents == "1 pictures with captions"
        assert source.skipped == [f"{root / 'a.mp4'} (a video, and the teacher draws pictures)"]
    with pytest.raises(DataError, match=r"b\.png: it is a video, and the teacher draws pictures"):
        source.draw(1, seeded())
    (root / "metadata.jsonl").write_text(rows[0])
    with pytest.raises(DataError, match=r"has no pictures with captions.*a\.mp4 \(a video, and the teacher draws pict"):
        opened(root, PixelSpace())
    (root / "metadata.jsonl").unlink()
    (root / "a.mp4").unlink()
    with pytest.raises(DataError, match=r"has no videos with captions.*b\.png \(a picture, and the teacher draws vid"):
        opened(root)


def test_an_animation_is_a_picture_to_a_teacher_of_pictures(tmp_path: Path) -> None:
    source = opened(in_folder(tmp_path / "set"), PixelSpace())
    assert source.draw(2, seeded())[0].shape == (2, 3, 4, 8)


def test_without_pyav_an_mp4_is_refused_by_name_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = in_folder(tmp_path / "set")
    (root / "z.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    (root / "z.txt").write_text("z")
    monkeypatch.setattr(containers, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"reading .*z\.mp4 needs av: pip install 'piflow\[video\]'"):
        opened(root)
    (root / "z.mp4").unlink()
    assert opened(root).contents == "3 videos with captions"


@NEEDS_AV
def test_containers_lie_beside_animations(tmp_path: Path) -> None:
    root = in_folder(tmp_path / "set")
    for name, content in (("y.webm", container(greys(9), kind="webm")), ("z.mp4", container(greys(9)))):
        (root / name).write_bytes(content)
        (root / name).with_suffix(".txt").write_text(name)
    source = opened(root)
    latents, captions = source.draw(30, seeded())
    assert set(captions) == {*CAPTIONS, "y.webm", "z.mp4"}
    one = {caption: latent for latent, caption in zip(latents, captions, strict=True)}
    for name in ("y.webm", "z.mp4"):
        torch.testing.assert_close(one[name], one["one"], rtol=0, atol=0.12)


def test_latents_of_videos_say_their_rate(tmp_path: Path) -> None:
    root, folder = in_folder(tmp_path / "set"), tmp_path / "latents"
    (root / "b.webp").write_bytes(b"no video")
    data, space = Captioned(path=str(root), latents=str(folder)), VideoSpace()
    report = encode_shards(folder, data.pictures(space), space, encoder="tiny-1")
    assert (report.num_pictures, report.built, len(report.left_out)) == (3, 1, 1)
    index = read_index(folder)
    assert (index.fps, index.shape, index.shard_size) == (16, (3, 5, 4, 8), 32)
    assert set(data.open(space).draw(12, seeded())[1]) == {"one", "three"}
    slower = VideoSpace(fps=12)
    with pytest.raises(DataError, match="holds other latents: frames a second 16 there, 12 wanted"):
        encode_shards(folder, data.pictures(slower), slower, encoder="tiny-1")
    pictures = Image.new("RGB", (16, 8))
    (tmp_path / "pictures").mkdir()
    pictures.save(tmp_path / "pictures" / "a.png")
    (tmp_path / "pictures" / "a.txt").write_text("a")
    of_pictures = Captioned(path=str(tmp_path / "pictures"))
    encode_shards(tmp_path / "other", of_pictures.pictures(PixelSpace()), PixelSpace(), encoder="tiny-1")
    assert (read_index(tmp_path / "other").fps, read_index(tmp_path / "other").shard_size) == (None, 1024)


def test_a_folder_of_which_nothing_is_of_use_is_refused_with_reasons(tmp_path: Path) -> None:
    root, folder = tmp_path / "set", tmp_path / "latents"
    root.mkdir()
    (root / "a.gif").write_bytes(animation(greys(2)))
    (root / "a.txt").write_text("a")
    data, space = Captioned(path=str(root), latents=str(folder)), VideoSpace()
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"none of the 1 files of data\.path can be used: .*a\.gif: it is too short"
        ):
            encode_shards(folder, data.pictures(space), space, encoder="tiny-1")
    with pytest.raises(DataError, match="holds no latents: its shards are empty"):
        Captioned(path=str(folder)).open(space)


def test_a_file_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = in_folder(tmp_path / "set")
    monkeypatch.setattr(listed, "MAX_PICTURE_BYTES", (root / "c.d.GIF").stat().st_size)
    source = opened(root)
    assert "one" not in source.draw(12, seeded())[1]
    assert any(name.startswith(str(root / "a.gif")) and "MB are read" in name for name in source.skipped)


def test_captions_are_counted_for_a_plan(tmp_path: Path) -> None:
    root = in_tar(tmp_path / "set")
    greys(1)[0].save(root / "photo.png")
    assert Captioned(path=str(root)).prompt_facts(frames=5).number == 3
