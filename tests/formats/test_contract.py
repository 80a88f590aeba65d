"""What every registered format keeps to: a student comes back from it bit for bit, and damage is a clear error."""

from pathlib import Path

import pytest
import torch
from text_students import STUDENTS
from tiny_models import POLICIES, tiny_vae

from piflow_cli import registry
from piflow_cli.engine.convert.verify import largest_difference
from piflow_cli.engine.students.load import assemble
from piflow_cli.errors import ModelError
from piflow_cli.formats.student import Format, StoredStudent

OWN_AUTOENCODER = ("dit",)
"""Kinds whose autoencoder is not their base's."""


def has_place(name: str, student: StoredStudent) -> bool:
    try:
        registry.resolve("format", name)().check(student.card)
    except ModelError:
        return False
    return True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every format, with every kind of student that it has a place for."""
    if "student" not in metafunc.fixturenames:
        metafunc.parametrize("name", registry.names("format"))
        return
    kinds = OWN_AUTOENCODER if "vae_folder" in metafunc.fixturenames else STUDENTS
    cases = [
        pytest.param(name, (kind, policy), id=f"{name}-{kind}-{policy}")
        for kind in kinds
        for policy in registry.names("policy")
        for name in registry.names("format")
        if has_place(name, STUDENTS[kind](POLICIES[policy]))
    ]
    metafunc.parametrize(("name", "student"), cases, indirect=["student"])


@pytest.fixture
def format_(name: str) -> Format:
    return registry.resolve("format", name)()


@pytest.fixture
def student(request: pytest.FixtureRequest) -> StoredStudent:
    kind, policy = request.param
    return STUDENTS[kind](POLICIES[policy])


@pytest.fixture
def vae_folder(tmp_path: Path) -> Path:
    tiny_vae().save_pretrained(tmp_path / "original" / "vae")
    return tmp_path / "original" / "vae"


def written(format_: Format, student: StoredStudent, place: Path) -> Path:
    """Where the student was written: a folder, or a file for formats that are one."""
    if format_.suffix:
        place = place.with_name(place.name + format_.suffix)
    else:
        place.mkdir()
    format_.write(student, place)
    return place


def files_of(place: Path) -> list[Path]:
    return [place] if place.is_file() else list(place.iterdir())


def test_is_registered_under_its_name(name: str, format_: Format) -> None:
    assert format_.name == name


def test_has_a_place_for_some_student(name: str) -> None:
    assert any(has_place(name, make(policy)) for make in STUDENTS.values() for policy in POLICIES.values())


def test_student_comes_back_bit_for_bit(format_: Format, student: StoredStudent, tmp_path: Path) -> None:
    back = format_.read(written(format_, student, tmp_path / "student"))
    assert back.card == student.card
    assert back.weights.keys() == student.weights.keys()
    for name, tensor in student.weights.items():
        assert back.weights[name].dtype == tensor.dtype
        assert torch.equal(back.weights[name], tensor), name
    assert back.vae_folder is None
    assert largest_difference(assemble(student, name="before"), assemble(back, name="after")) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_is_kept(format_: Format, student: StoredStudent, tmp_path: Path, dtype: torch.dtype) -> None:
    student.weights = {name: tensor.to(dtype) for name, tensor in student.weights.items()}
    back = format_.read(written(format_, student, tmp_path / "student"))
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in student.weights.items())
    assert {tensor.dtype for tensor in back.weights.values()} == {dtype}


def test_autoencoder_travels_along(format_: Format, student: StoredStudent, vae_folder: Path, tmp_path: Path) -> None:
    student.vae_folder = vae_folder
    back = format_.read(written(format_, student, tmp_path / "student"))
    assert back.vae_folder is not None
    assert back.vae_folder.is_relative_to(tmp_path / "student")
    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    pictures = [assemble(s, name="student").space.decode(latents) for s in (student, back)]
    assert torch.equal(*pictures)


def test_exactly_this_format_recognises_it(name: str, format_: Format, student: StoredStudent, tmp_path: Path) -> None:
    folder = written(format_, student, tmp_path / "student")
    recognise = [other for other in registry.names("format") if registry.resolve("format", other)().matches(folder)]
    assert recognise == [name]


def test_recognises_nothing_where_there_is_nothing(format_: Format, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no student")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "missing"):
        assert not format_.matches(path)


def test_writing_changes_neither_student_nor_its_card(format_: Format, student: StoredStudent, tmp_path: Path) -> None:
    card, names = student.card.model_dump_json(), list(student.weights)
    written(format_, student, tmp_path / "student")
    assert student.card.model_dump_json() == card
    assert list(student.weights) == names
    assert all(isinstance(caveat, str) for caveat in format_.caveats(student))


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_truncated_weights_are_a_model_error(
    format_: Format, student: StoredStudent, tmp_path: Path, keep: int
) -> None:
    folder = written(format_, student, tmp_path / "student")
    file = max(files_of(folder), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=file.name):
        format_.read(folder)
