"""Draw the emoji pictures of the documentation: the embedded teacher on its fifty prompts, and beside its students.

python -m piflow_cli.zoo.emoji.build.draw [FOLDER]

Writes emoji-teacher.png (the prompts by which the teacher is judged, 32 steps) and emoji.png (a column a prompt, from
the same noise by the ODE: the teacher at 32 steps, the students, the teacher at as few steps) to docs/images or the
folder.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import Teacher
from piflow_cli.core.sampling import sample_euler, sample_student
from piflow_cli.core.schedule import Shift
from piflow_cli.engine.sample.sample import seeded_noise
from piflow_cli.engine.students.find import find_student
from piflow_cli.engine.students.load import load_student
from piflow_cli.formats.native import read_card
from piflow_cli.io.pictures import grid_picture, to_pictures
from piflow_cli.zoo.emoji.build.data.prompts import PROMPTS

FOLDER = Path(__file__).parents[4] / "docs" / "images"
STUDENTS = ("emoji-4nfe", "emoji-2nfe", "emoji-1nfe")
LONG, SHORT = 32, (4, 2, 1)
COLUMNS = 10
BESIDE = (
    "a cat",
    "a lion",
    "a panda",
    "a frog",
    "a pizza",
    "a red heart",
    "a house",
    "a guitar",
    "a grinning face",
    "flag of japan",
)


def draw_teacher(
    teacher: Teacher, condition: TextCondition, noise: Tensor, *, steps: int, shift: Shift
) -> list[Image.Image]:
    """Pictures by Euler steps of the guided teacher."""
    latents = sample_euler(lambda x, s: teacher.velocity(x, s, condition), noise, num_steps=steps, shift=shift)
    return to_pictures(teacher.space.decode(latents))


def judged_sheet(teacher: Teacher, shift: Shift) -> Image.Image:
    """The fifty prompts, seed 0 for each."""
    noise = seeded_noise([0] * len(PROMPTS), teacher.space.latent_shape)
    pictures = draw_teacher(teacher, teacher.space.encode_prompts(PROMPTS), noise, steps=LONG, shift=shift)
    return grid_picture(pictures, columns=COLUMNS, labels=PROMPTS)


def comparison(teacher: Teacher, shift: Shift) -> Image.Image:
    """Teacher, students and the hurried teacher, a column a prompt, seed 0 for each."""
    noise = seeded_noise([0] * len(BESIDE), teacher.space.latent_shape)
    condition = teacher.space.encode_prompts(BESIDE)
    rows = {f"teacher, {LONG} steps": draw_teacher(teacher, condition, noise, steps=LONG, shift=shift)}
    for name in STUDENTS:
        student = load_student(name)
        settings = student.card.sampling.model_copy(update={"h": 0.0})
        latents = sample_student(student.network, student.card.policy, noise, condition, settings=settings)
        nfe = settings.nfe
        rows[f"student, {nfe} evaluation{'s' * (nfe > 1)}"] = to_pictures(teacher.space.decode(latents))
    for steps in SHORT:
        label = f"teacher, {steps} step{'s' * (steps > 1)}"
        rows[label] = draw_teacher(teacher, condition, noise, steps=steps, shift=shift)
    return grid_picture([p for row in rows.values() for p in row], columns=len(BESIDE), row_labels=list(rows))


def main() -> None:
    """Sample, lay out, save."""
    card = read_card(find_student(STUDENTS[0]))
    teacher, shift = card.teacher.load(), card.sampling.time_shift
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in (("emoji-teacher", judged_sheet(teacher, shift)), ("emoji", comparison(teacher, shift))):
        picture.save(folder / f"{name}.png")
        print(folder / f"{name}.png")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
