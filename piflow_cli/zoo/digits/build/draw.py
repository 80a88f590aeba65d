"""Draw docs/images/digits.png: the embedded teacher and its students from the same noise, a column a digit.

python -m piflow_cli.zoo.digits.build.draw [FILE]
"""

import sys
from pathlib import Path

import torch

from piflow_cli.core.sampling import sample_euler, sample_student
from piflow_cli.core.schedule import Shift
from piflow_cli.engine.students.load import load_student
from piflow_cli.io.pictures import grid_picture, to_pictures

PICTURE = Path(__file__).parents[4] / "docs" / "images" / "digits.png"
COLUMNS = 10
TEACHER_STEPS = (128, 1, 2, 4)


def main() -> None:
    """Sample, lay out, save."""
    students = [load_student(name) for name in ("digits-1nfe", "digits-2nfe")]
    teacher = students[0].card.teacher.load()
    noise = torch.randn((COLUMNS, *teacher.space.latent_shape), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(COLUMNS)

    def teacher_row(steps: int) -> torch.Tensor:
        return sample_euler(lambda x, s: teacher.velocity(x, s, labels), noise, num_steps=steps, shift=Shift(1.0))

    rows = {f"teacher, {steps} evaluations": teacher_row(steps) for steps in TEACHER_STEPS}
    for student in students:
        nfe = student.card.sampling.nfe
        rows[f"student, {nfe} evaluation{'s' * (nfe > 1)}"] = sample_student(
            student.network, student.card.policy, noise, labels, settings=student.card.sampling
        )
    order = [0, 4, 5, 1, 2, 3]  # the teacher's best, the students, the teacher at as few evaluations
    labelled = [list(rows.items())[i] for i in order]
    pictures = [p for _, latents in labelled for p in to_pictures(teacher.space.decode(latents))]
    sheet = grid_picture(pictures, columns=COLUMNS, row_labels=[label for label, _ in labelled])
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    print(path)


if __name__ == "__main__":
    main()
