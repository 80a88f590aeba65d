"""Pictures are drawn with the captions that belong to them, and what does not decode is replaced, counted and named."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hashed_text import encode, encode_one
from PIL import Image
from pixel_space import PixelSpace
from safetensors.torch import save_file

from piflow_cli.core.conditions import join_conditions
from piflow_cli.data.captioned import Captioned, CaptionedLatents, PictureSource
from piflow_cli.data.embeddings.building import build_shards
from piflow_cli.data.embeddings.cache import CachePlan
from piflow_cli.errors import DataError

COUNT = 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of one grey each, whose captions say which."""
    root = tmp_path / "set"
    root.mkdir()
    for i in range(COUNT):
        Image.new("RGB", (20 + i, 12), (i * 40,) * 3).save(root / f"{i}.png")
        (root / f"{i}.txt").write_text(str(i))
    return root


def opened(path: Path, **settings: object) -> PictureSource | CaptionedLatents:
    return Captioned(path=str(path), **settings).open(PixelSpace(noise=0.0))


def greys(latents: torch.Tensor) -> list[int]:
    """Which picture each latent is of."""
    return ((latents.mean(dim=(1, 2, 3)) + 1) / 2 * 255 / 40).round().long().tolist()


def test_latents_and_captions_belong_together(folder: Path) -> None:
    source = opened(folder)
    latents, captions = source.draw(40, seeded())
    assert latents.shape == (40, 3, 4, 8)
    assert greys(latents) == [int(caption) for caption in captions]
    assert set(captions) == {str(i) for i in range(COUNT)}
    assert source.has_images is True
    assert source.skipped == []


def test_the_size_asked_for_comes_out(folder: Path) -> None:
    source, generator = opened(folder, resolutions=("8x16", "12x12")), seeded()
    assert {source.draw_size(generator) for _ in range(20)} == {(8, 16), (12, 12)}
    assert source.draw(2, generator, size_px=(8, 16))[0].shape == (2, 3, 8, 4)


def test_draws_depend_on_the_generator_alone(folder: Path) -> None:
    (folder / "2.png").write_bytes(b"no picture")
    source, generator = Captioned(path=str(folder)).open(PixelSpace()), seeded()
    source.draw(8, generator)
    state = generator.get_state()
    expected, captions = source.draw(8, generator)
    resumed = torch.Generator()
    resumed.set_state(state)
    latents, again = Captioned(path=str(folder)).open(PixelSpace()).draw(8, resumed)
    assert again == captions
    assert torch.equal(latents, expected)


def test_what_does_not_decode_is_replaced_counted_and_named(folder: Path) -> None:
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:50])
    (folder / "4.png").write_bytes(b"")
    source = opened(folder)
    latents, captions = source.draw(60, seeded())
    assert greys(latents) == [int(caption) for caption in captions]
    assert set(captions) == {"0", "2", "3", "5"}
    first, second = sorted(source.skipped)
    assert first.startswith(f"{folder / '1.png'} (")
    assert second.startswith(f"{folder / '4.png'} (it is none of PNG, JPEG")
    assert source.left_out.tally.num_read - source.left_out.tally.num_failed == 60


def test_a_listed_picture_that_is_not_there_is_skipped(folder: Path) -> None:
    rows = [{"file_name": f"{i}.png", "text": str(i)} for i in range(COUNT + 1)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = opened(folder)
    assert set(source.draw(60, seeded())[1]) == {str(i) for i in range(COUNT)}
    assert source.skipped == [f"{folder / f'{COUNT}.png'} (No such file or directory)"]


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_damage_in_shards_is_replaced_and_named_too(tmp_path: Path, suffix: str) -> None:
    contents = []
    for i in range(COUNT):
        file = io.BytesIO()
        Image.new("RGB", (20, 12), (i * 40,) * 3).save(file, "PNG")
        contents.append(b"no picture" if i == 2 else file.getvalue())
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"image": contents, "text": list(map(str, range(COUNT)))}), path)
    else:
        with tarfile.open(path, "w") as tar:
            for i, content in enumerate(contents):
                for name, data in ((f"{i}.png", content), (f"{i}.txt", str(i).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    source = opened(path)
    latents, captions = source.draw(60, seeded())
    assert greys(latents) == [int(caption) for caption in captions]
    assert set(captions) == {"0", "1", "3", "4", "5"}
    assert [name.split(" (")[0] for name in source.skipped] == [source.reader.pictures.name(2)]


def test_mostly_broken_pictures_end_the_run(folder: Path) -> None:
    for i in range(COUNT):
        (folder / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(
        DataError, match=r"of \d+ drawn do not decode or cannot be used, the last being .*png: .*data.path"
    ):
        opened(folder).draw(4, seeded())


def test_pictures_without_captions_are_among_the_skipped(folder: Path) -> None:
    (folder / "3.txt").unlink()
    assert opened(folder).skipped == [f"{folder / '3.png'} (no caption)"]


def test_captions_are_cached_likewise(folder: Path, tmp_path: Path) -> None:
    source = opened(folder)
    captions = source.draw(5, seeded())[1]
    build_shards(tmp_path / "cache", CachePlan(source.prompts, "hashes-1", storage="bf16", shard_size=4), encode)
    latents, condition = opened(folder, cache=str(tmp_path / "cache")).draw(5, seeded())
    assert greys(latents) == [int(caption) for caption in captions]
    assert torch.equal(condition.embeds, join_conditions([encode_one(text) for text in captions]).embeds.float())
    assert opened(folder).preview(2) == ["0", "1"]


def write_latents(path: Path, numbers: range, *, prompts: object = None, shape: tuple[int, ...] = (3, 4, 8)) -> None:
    latents = torch.stack([torch.full(shape, float(i)) for i in numbers]).bfloat16()
    texts = [str(i) for i in numbers] if prompts is None else prompts
    save_file({"latents": latents}, path, metadata={"prompts": texts if isinstance(texts, str) else json.dumps(texts)})


def test_cached_latents_belong_to_their_prompts(tmp_path: Path) -> None:
    write_latents(tmp_path / "b.safetensors", range(4, 9))
    write_latents(tmp_path / "a.safetensors", range(4))
    source = opened(tmp_path)
    latents, prompts = source.draw(50, seeded())
    assert latents.shape == (50, 3, 4, 8)
    assert latents.dtype == torch.float32
    assert latents[:, 0, 0, 0].tolist() == [float(prompt) for prompt in prompts]
    assert set(prompts) == {str(i) for i in range(9)}
    assert source.preview(3) == ["0", "1", "2"]
    assert source.draw_size(seeded()) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": ["one"]}, "needs as many prompts as latents, 2, .* it has 1 values"),
        ({"prompts": [1, 2]}, "a JSON list of texts"),
        ({"prompts": {"a": 1}}, "it has none"),
        ({"prompts": "["}, "is no shard of latents and prompts"),
        ({"shape": (3, 8, 8)}, r"has latents \[2, 3, 8, 8\]; this teacher at its size needs \(N, 3, 4, 8\)"),
    ],
)
def test_bad_shards_of_latents_are_named(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    write_latents(tmp_path / "a.safetensors", range(2), **settings)
    with pytest.raises(DataError, match=f"a.safetensors.*{message}"):
        opened(tmp_path)


def test_latents_that_are_not_finite_are_refused_by_file_and_row(tmp_path: Path) -> None:
    latents = torch.zeros(3, 3, 4, 8)
    latents[1, 2, 0, 5] = torch.inf
    save_file({"latents": latents}, tmp_path / "a.safetensors", metadata={"prompts": '["0", "1", "2"]'})
    with pytest.raises(DataError, match=r"a.safetensors latent 1 holds inf \(1 of 96 values are not finite\)"):
        opened(tmp_path).draw(20, seeded())


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", b"nothing"])
def test_damaged_shards_of_latents_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a shard of latents and prompts"):
        opened(tmp_path)


def test_latents_have_one_size(tmp_path: Path) -> None:
    write_latents(tmp_path / "a.safetensors", range(2))
    with pytest.raises(DataError, match=r"data.resolutions: cached latents have one size"):
        opened(tmp_path, resolutions=("8x8",))
    with pytest.raises(DataError, match="cached latents have one size"):
        opened(tmp_path).draw(1, seeded(), size_px=(8, 8))


def test_a_missing_place_and_a_teacher_of_classes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        opened(tmp_path / "nowhere")
    space = PixelSpace()
    space.num_classes = 10
    with pytest.raises(DataError, match="takes class labels and no prompts"):
        Captioned(path=str(tmp_path)).open(space)


def test_photographs_are_turned_the_right_way_up(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    image = Image.new("RGB", (32, 64))
    image.paste((255, 255, 255), (0, 0, 16, 64))  # white on the left as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: white ends up above
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    (root / "a.png").write_bytes(file.getvalue())
    (root / "a.txt").write_text("white above")
    latents, _ = opened(root).draw(1, seeded())
    assert latents[0, :, 0].mean() > 0.9
    assert latents[0, :, -1].mean() < -0.9
