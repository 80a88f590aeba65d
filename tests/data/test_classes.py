"""Folders are the classes that the teacher calls so, or has under this number, else in sorted order."""

import pytest

from piflow_cli.data.classes import match_classes
from piflow_cli.errors import DataError
from piflow_cli.teachers.dit.space import DiTSpace

DOGS = ("tench, Tinca tinca", "golden retriever", "red fox", "n0")
UNNAMED = tuple(map(str, range(10)))


def space(names: tuple[str, ...]) -> DiTSpace:
    return DiTSpace(labels=dict(enumerate(names)), latent_shape=(1, 8, 8))


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (("Red-Fox", "Tinca tinca", "golden_retriever", "n0"), (2, 0, 1, 3)),
        (("0", "1", "2", "3"), (0, 1, 2, 3)),
        (("000", "2", "golden retriever", "n0"), (0, 2, 1, 3)),
    ],
)
def test_folders_are_the_classes_that_they_name(folders: tuple[str, ...], labels: tuple[int, ...]) -> None:
    found = match_classes(folders, space(DOGS), root="data")
    assert (found.labels, found.names, found.doubts) == (labels, {}, ())


def test_numbers_of_folders_are_numbers_of_classes_and_not_their_order() -> None:
    names = tuple(sorted(map(str, range(12))))
    found = match_classes(names, space(tuple(map(str, range(12)))), root="data")
    assert [int(name) for name in names] == list(found.labels)


def test_folders_name_the_classes_of_a_teacher_that_has_no_names() -> None:
    names = tuple(f"breed {letter}" for letter in "abcdefghij")
    found = match_classes(names, space(UNNAMED), root="data")
    assert (found.labels, found.names, found.doubts) == (tuple(range(10)), dict(enumerate(names)), ())


def test_fewer_folders_than_classes_are_questioned() -> None:
    (doubt,) = match_classes(("cat", "dog", "fox"), space(UNNAMED), root="data").doubts
    assert "data has 3 class folders, and this teacher has 10 classes" in doubt
    assert "sorted order (cat = 0, dog = 1, fox = 2). Is that so?" in doubt
    (doubt,) = match_classes(("red fox",), space(DOGS), root="data").doubts
    assert doubt == "data has 1 class folder, and this teacher has 4 classes: the other 3 are not trained on"
    (doubt,) = match_classes(("x", "y"), space(DOGS), root="data").doubts
    assert "(x = tench, y = golden retriever)" in doubt


def test_names_that_are_none_of_the_teachers_are_questioned_unless_they_are_imagenets() -> None:
    (doubt,) = match_classes(("a", "b", "c", "d"), space(DOGS), root="data").doubts
    assert "a = tench, b = golden retriever, c = red fox, d = n0" in doubt
    synsets = tuple(f"n0144076{i}" for i in range(4))
    assert match_classes(synsets, space(DOGS), root="data").doubts == ()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("red fox", "wolf"), "'red fox', which is a class of this teacher, and 'wolf', which is none"),
        (("3", "n0"), "several folders of one class of this teacher: '3', 'n0'"),
        (("a", "b", "c", "d", "e"), "5 class folders; this teacher has 4 classes"),
    ],
)
def test_folders_that_cannot_be_the_classes_are_refused(folders: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        match_classes(folders, space(DOGS), root="data")
