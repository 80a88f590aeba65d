"""The emoji teacher, students, feature network and prompts that ship: whole, small, and good for what they are for."""

import json
from pathlib import Path

import pytest
import torch

from piflow_cli.engine.sample import sample
from piflow_cli.engine.students.find import default_student, embedded_students
from piflow_cli.io.zoo import ZOO
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.teachers.flux import Flux

ENTRY = ZOO / "emoji"
STUDENTS = ("emoji-1nfe", "emoji-2nfe", "emoji-4nfe", "emoji-4nfe-dx")
MEGABYTE = 1_000_000
ASKED = 48


def asked() -> list[dict]:
    lines = (ENTRY / "prompts.jsonl").read_text(encoding="utf-8").splitlines()[:ASKED]
    return [json.loads(line) for line in lines]


def accuracy(images: list) -> float:
    """Share of pictures in which the embedded classifier sees the emoji that was asked for, one of 1,911."""
    detector = load_detector("emoji-cnn")
    pixels = torch.stack([torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).view(64, 64, 3) for i in images])
    logits = detector(pixels.permute(0, 3, 1, 2) / 255).logits
    return (logits.argmax(dim=1) == torch.tensor([line["label"] for line in asked()])).double().mean().item()


def test_everything_fits_into_forty_megabytes() -> None:
    sizes = {path: path.stat().st_size for path in ENTRY.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 40 * MEGABYTE
    assert {name for name, folder in embedded_students().items() if folder.is_relative_to(ENTRY)} == set(STUDENTS)


def test_nothing_names_a_folder_of_another_machine() -> None:
    for path in ENTRY.rglob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        named = found.get("_name_or_path", "") if isinstance(found, dict) else ""
        assert not Path(named).is_absolute(), path


def test_teacher_is_an_ordinary_pipeline() -> None:
    teacher = Flux(source="zoo:emoji", guidance_scale=3.0, width=64, height=64, max_sequence_length=16).load()
    assert type(teacher.space.pipeline).__name__ == "FluxPipeline"
    assert teacher.space.latent_shape == (16, 8, 8)
    assert not teacher.space.embedded_guidance
    assert teacher.space.dropped_tokens(["a cat", "a " * 30]) == [0, 15]


@pytest.mark.parametrize(("asked_for", "student"), [(1, 1), (2, 2), (4, 4), (8, 4), (None, 4)])
def test_default_is_the_gmflow_student_of_as_many_evaluations(asked_for: int | None, student: int) -> None:
    assert default_student(asked_for) == f"emoji-{student}nfe"


@pytest.mark.parametrize("name", STUDENTS)
def test_students_draw_what_is_asked_for(name: str) -> None:
    result = sample([line["prompt"] for line in asked()], model=name, device="cpu")
    assert (result.settings.nfe, result.warnings) == (int(name.split("-")[1][0]), [])
    assert accuracy(result.images) > 0.25
    assert accuracy(result.images[::-1]) < 0.05
