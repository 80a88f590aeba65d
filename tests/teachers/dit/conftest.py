"""A DiT with random weights in classes of digits."""

from pathlib import Path

import pytest
from tiny_models import DIGIT_NAMES, save_teacher

from piflow_cli.teachers.dit.family import DiT
from piflow_cli.teachers.dit.teacher import DiTTeacher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_teacher(tmp_path / "teacher", labels=DIGIT_NAMES)


@pytest.fixture
def teacher(folder: Path) -> DiTTeacher:
    return DiT(source=str(folder)).load()
