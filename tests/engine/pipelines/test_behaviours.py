"""What users of diffusers expect of any pipeline, one function each, of students and, for comparison, of their bases.

A behaviour either holds for a subject, or is in `REFUSED` with the sentence that says so, or in `ABSENT` because the
class has no such thing. The counts stand in the guide.
"""

from pathlib import Path
from typing import Any

import pytest
from behaviours import BEHAVIOURS, TEXT, Subject
from diffusers import DiffusionPipeline

from piflow_cli.engine.pipelines.student import StudentPipeline

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*was trained (on|for)",
    "ignore:.*guidance_scale",
    "ignore:Already found a `peft_config` attribute",
    "ignore:students are saved as safetensors",
    "ignore:.*Already unmerged",
    "ignore:.*is not None when",
)

GUIDE = (Path(__file__).parents[3] / "docs" / "pipeline.md").read_text()

SUBJECTS = [(family, student) for family in (*TEXT, "dit") for student in (True, False)]

NO_OTHER = "cannot be made of a Pi(Flux|QwenImage)Pipeline"

REFUSED: dict[str, str] = {
    "from_pipe_makes_image_to_image": NO_OTHER,
    "auto_pipelines_convert_it": NO_OTHER,
    "it_takes_sigmas": "sigmas is an argument of the base's pipeline that its students do not support",
    "the_transformer_is_replaced": "pipe.transformer is not the student's any more; load the pipeline again",
    "style_is_swapped_while_compiled": "enable_lora_hotswap would pad the student's own LoRA too",
    "image_prompts_are_loaded": "students do not support IP adapters",
}
"""Of students, by design, with the sentence."""

ABSENT: dict[tuple[str, bool], set[str]] = {
    ("dit", False): {"several_pictures_a_prompt", "generators_are_as_many_as_pictures", "groups_are_offloaded"},
    ("dit", True): {"groups_are_offloaded"},
}
"""What a base's class, or its network's, has not."""


def cases() -> list[Any]:
    return [
        pytest.param(name, family, student, id=f"{name}-{family}-{'student' if student else 'base'}")
        for name, (_, families) in BEHAVIOURS.items()
        for family, student in SUBJECTS
        if family in families and name not in ABSENT.get((family, student), ())
    ]


@pytest.mark.parametrize(("name", "family", "student"), cases())
def test_behaviour(name: str, family: str, student: bool, tmp_path: Path) -> None:
    function, _ = BEHAVIOURS[name]
    it = Subject(family, student, tmp_path)
    if student and name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            function(it)
    else:
        function(it)


def test_students_are_pipelines_of_diffusers(tmp_path: Path) -> None:
    for family in (*TEXT, "dit"):
        pipe = Subject(family, True, tmp_path).make()
        assert isinstance(pipe, StudentPipeline)
        assert isinstance(pipe, DiffusionPipeline)


def test_the_guide_counts_them() -> None:
    for family, student in SUBJECTS:
        tried = [p.values[0] for p in cases() if p.values[1:] == (family, student)]
        refused = [name for name in tried if student and name in REFUSED]
        who = f"{family} {'student' if student else 'base'}"
        assert f"| {who} | {len(tried)} | {len(tried) - len(refused)} | {len(refused)} |" in GUIDE, (
            who,
            len(tried),
            len(refused),
        )
