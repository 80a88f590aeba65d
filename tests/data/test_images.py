"""Class folders give pictures with their labels; what does not belong there is named, and damage ends nothing."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from piflow_cli.data.images import FolderSource, Images, read_square
from piflow_cli.errors import DataError
from piflow_cli.teachers.dit.space import DiTSpace

CLASSES = 4
SPACE = DiTSpace(labels={i: str(i) for i in range(CLASSES)}, latent_shape=(1, 8, 8))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write_classes(root: Path, names: tuple[str, ...] = ("a", "b", "c", "d"), *, shift: int = 0) -> None:
    """Two pictures a class, whose grey says which: 50 times its number and `shift` more."""
    for label, name in enumerate(names):
        (root / name / "sub").mkdir(parents=True)
        Image.new("L", (12, 9), label * 50 + shift).save(root / name / "0.png")
        Image.new("RGB", (9, 20), (label * 50 + shift,) * 3).save(root / name / "sub" / "1.PNG")


def opened(root: Path) -> FolderSource:
    return Images(path=str(root)).open(SPACE)


def greys(latents: torch.Tensor) -> list[int]:
    return ((latents.mean(dim=(1, 2, 3)) + 1) / 2 * 255).round().long().tolist()


def test_pictures_come_with_the_labels_of_their_folders(tmp_path: Path) -> None:
    write_classes(tmp_path)
    source = opened(tmp_path)
    latents, labels = source.draw(40, seeded())
    assert latents.shape == (40, 1, 8, 8)
    assert greys(latents) == [50 * label for label in labels.tolist()]
    assert set(labels.tolist()) == set(range(CLASSES))
    assert source.skipped == []


def test_what_systems_leave_is_no_class(tmp_path: Path) -> None:
    write_classes(tmp_path, ("a", "b"))
    write_classes(tmp_path, ("__MACOSX", ".ipynb_checkpoints", "@eaDir"), shift=7)
    (tmp_path / "a" / "._0.png").write_bytes(b"x")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"x")
    source = opened(tmp_path)
    latents, labels = source.draw(20, seeded())
    assert greys(latents) == [50 * label for label in labels.tolist()]
    assert source.skipped == []


def test_the_split_for_training_has_the_classes(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", shift=7)
    source = opened(tmp_path)
    latents, labels = source.draw(20, seeded())
    assert greys(latents) == [50 * label for label in labels.tolist()]
    assert source.skipped == [f"{tmp_path}/val (split val)"]


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    write_classes(tmp_path, ("bus", "train"))
    _, labels = opened(tmp_path).draw(20, seeded())
    assert set(labels.tolist()) == {0, 1}


def test_what_is_not_read_is_named_with_the_reason(tmp_path: Path) -> None:
    write_classes(tmp_path, ("a", "b"))
    (tmp_path / "c").mkdir()
    Image.new("L", (3, 3)).save(tmp_path / "loose.png")
    for name in ("a/x.heic", "a/README.md", "b/no_suffix"):
        (tmp_path / name).write_bytes(b"x")
    assert opened(tmp_path).skipped == [
        f"{tmp_path}/loose.png (in no class folder)",
        f"{tmp_path}/c (class 2, without pictures)",
        f"{tmp_path}/a/x.heic (.heic: not read)",
        f"{tmp_path}/b/no_suffix (no suffix: not read)",
    ]


def test_damage_is_replaced_counted_and_named(tmp_path: Path) -> None:
    write_classes(tmp_path)
    whole = (tmp_path / "b" / "0.png").read_bytes()
    (tmp_path / "b" / "0.png").write_bytes(whole[:-25])
    (tmp_path / "c" / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    source = opened(tmp_path)
    latents, labels = source.draw(60, seeded())
    assert greys(latents) == [50 * label for label in labels.tolist()]
    assert set(labels.tolist()) == set(range(CLASSES))
    assert sorted(name.split(" (")[0] for name in source.skipped) == [f"{tmp_path}/b/0.png", f"{tmp_path}/c/0.png"]


def test_damaged_pictures_alone_end_the_run(tmp_path: Path) -> None:
    write_classes(tmp_path, ("a",))
    for path in tmp_path.rglob("*.[pP][nN][gG]"):
        path.write_bytes(b"no picture")
    with pytest.raises(
        DataError, match=r"of \d+ drawn do not decode or cannot be used, the last being .*: it is none of"
    ):
        opened(tmp_path).draw(2, seeded())


def test_too_many_folders_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, ("a", "b", "c", "d", "e"))
    with pytest.raises(DataError, match="has 5 class folders; this teacher has 4 classes"):
        opened(tmp_path)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="has no pictures in class folders"):
        opened(tmp_path)


def test_a_square_is_the_middle_as_large_as_the_shorter_side(tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 20))
    picture.paste((255, 0, 51), (20, 0, 40, 20))
    picture.save(tmp_path / "a.png")
    square = read_square(tmp_path / "a.png", size_px=10, channels=3)
    assert square.shape == (3, 10, 10)
    torch.testing.assert_close(square, torch.tensor([1.0, 0.0, 0.2]).reshape(3, 1, 1).expand(3, 10, 10))
    assert read_square(tmp_path / "a.png", size_px=10, channels=1).shape == (1, 10, 10)
    with pytest.raises(DataError, match=r"nothing\.png cannot be read: No such file"):
        read_square(tmp_path / "nothing.png", size_px=10, channels=3)
