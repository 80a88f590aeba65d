"""Models beside each other: a row is what its model draws alone, from the same noise."""

import numpy as np
import pytest
from PIL import Image

from piflow_cli.engine.sample.beside import Lineup, Other, label, parse_beside, sheet
from piflow_cli.engine.sample.open import open_student, open_teacher
from piflow_cli.engine.sample.sample import prepare, sample
from piflow_cli.engine.students.shared import Bases
from piflow_cli.errors import DataError
from piflow_cli.io.pictures import LABEL_PX


def test_a_list_names_students_and_teachers() -> None:
    found = parse_beside("teacher, teacher@4,emoji-1nfe,runs/teacher@x")
    assert found == [Other(None), Other(None, 4), Other("emoji-1nfe"), Other("runs/teacher@x")]
    with pytest.raises(DataError, match=r"names nothing beside a comma; write it as teacher,teacher@4,STUDENT"):
        parse_beside("teacher,,a")


def test_each_row_is_what_its_model_draws_alone() -> None:
    bases, asked = Bases(), {"num_images": 2, "seed": 5}
    student = open_student("digits-1nfe", device="cpu", bases=bases)
    teacher = open_teacher("digits-1nfe", device="cpu", bases=bases)
    told = []
    jobs = [prepare(["3", "7"], model=student, **asked), prepare(["3", "7"], model=teacher, steps=4, **asked)]
    results = Lineup(jobs).run(on_progress=lambda *counts: told.append(counts))
    assert told[-1] == (4 * 1 + 4 * 4,) * 2
    assert [label(result) for result in results] == ["digits-1nfe, 1 evaluation", "teacher zoo:digits, 4 steps"]
    for model, steps, result in ((student, None, results[0]), (teacher, 4, results[1])):
        alone = sample(["3", "7"], model=model, steps=steps, **asked)
        for one, other in zip(alone.images, result.images, strict=True):
            assert np.array_equal(np.asarray(one), np.asarray(other))
    picture, facts = sheet(results)
    assert facts["models"] == "digits-1nfe, 1 evaluation; teacher zoo:digits, 4 steps"
    assert facts["seed"] == "5, 6"
    width, height = results[0].size_px
    scale = (picture.width - 2) // 4 // width
    cell, top = width * scale + 2, 2 + LABEL_PX  # below the names of the columns
    for row, result in enumerate(results):
        for column, image in enumerate(result.images):
            left, upper = 2 + column * cell, top + row * (height * scale + 2 + LABEL_PX) + LABEL_PX
            found = picture.crop((left, upper, left + width * scale, upper + height * scale))
            expected = image.convert("RGB").resize(found.size, Image.Resampling.NEAREST)
            assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_models_of_other_noise_are_refused() -> None:
    jobs = [
        prepare([prompt], model=open_student(name, device="cpu"))
        for prompt, name in (("3", "digits-1nfe"), ("a cat", "emoji-1nfe"))
    ]
    with pytest.raises(DataError, match=r"emoji-1nfe draws from noise .* and digits-1nfe from .* one teacher"):
        Lineup(jobs)


def test_a_sheet_has_a_bound() -> None:
    job = prepare(["3"], model=open_student("digits-1nfe", device="cpu"), num_images=100_000)
    with pytest.raises(DataError, match=r"a sheet of 2 models and 100000 pictures .* ask for fewer"):
        Lineup([job, job])
