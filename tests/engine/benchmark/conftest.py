"""A teacher of digits with random weights and a student of it, which a module of tests shares."""

import pytest
from tiny_models import DIGIT_NAMES, save_teacher, student_of

from piflow_cli.engine.students.load import LoadedStudent
from piflow_cli.teachers.dit.family import DiT


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> DiT:
    folder = save_teacher(
        tmp_path_factory.mktemp("teacher") / "teacher", labels=DIGIT_NAMES, in_channels=1, out_channels=1
    )
    return DiT(source=str(folder))


@pytest.fixture(scope="module")
def student(teacher: DiT) -> LoadedStudent:
    return student_of(teacher)
