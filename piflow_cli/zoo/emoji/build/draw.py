"""Draw a picture of the documentation: the embedded emoji teacher on the fifty prompts by which it is judged.

python -m piflow_cli.zoo.emoji.build.draw [FOLDER]

Writes emoji-teacher.png, 32 steps a picture, to docs/images or the folder.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import Teacher
from piflow_cli.core.sampling import sample_euler
from piflow_cli.core.schedule import Shift
from piflow_cli.engine.sample.sample import seeded_noise
from piflow_cli.engine.students.find import find_student
from piflow_cli.formats.native import read_card
from piflow_cli.io.pictures import grid_picture, to_pictures
from piflow_cli.zoo.emoji.build.data.prompts import PROMPTS

FOLDER = Path(__file__).parents[4] / "docs" / "images"
STUDENT, STEPS, COLUMNS = "emoji-4nfe", 32, 10
"""The student is the one whose time grid the teacher is drawn on."""


def draw_teacher(
    teacher: Teacher, condition: TextCondition, noise: Tensor, *, steps: int, shift: Shift
) -> list[Image.Image]:
    """Pictures by Euler steps of the guided teacher."""
    latents = sample_euler(lambda x, s: teacher.velocity(x, s, condition), noise, num_steps=steps, shift=shift)
    return to_pictures(teacher.space.decode(latents))


def judged_sheet(teacher: Teacher, shift: Shift) -> Image.Image:
    """The fifty prompts, seed 0 for each."""
    noise = seeded_noise([0] * len(PROMPTS), teacher.space.latent_shape)
    pictures = draw_teacher(teacher, teacher.space.encode_prompts(PROMPTS), noise, steps=STEPS, shift=shift)
    return grid_picture(pictures, columns=COLUMNS, labels=PROMPTS)


def main() -> None:
    """Sample, lay out, save."""
    card = read_card(find_student(STUDENT))
    teacher, shift = card.teacher.load(), card.sampling.time_shift
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    judged_sheet(teacher, shift).save(folder / "emoji-teacher.png")
    print(folder / "emoji-teacher.png")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
