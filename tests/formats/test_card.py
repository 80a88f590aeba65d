"""What a student's card says: dtype, evaluations, guidance; and that cards of before are still read."""

import json
from pathlib import Path

import pytest
import torch
from text_students import FOUR_STEPS, text_student
from tiny_models import dx, gmflow, stored_student, tiny_flux, tiny_qwen

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.students.find import embedded_students
from piflow_cli.engine.students.load import load_student
from piflow_cli.formats.native import CARD, NativeFormat
from piflow_cli.formats.student import DERIVED, MAX_NFE, StoredStudent, StudentCard


def card_json(student: StoredStudent, folder: Path) -> dict:
    NativeFormat().write(student, folder)
    return json.loads((folder / CARD).read_text())


def test_readers_find_dtype_evaluations_and_guidance(tmp_path: Path) -> None:
    policy = dx(segment_size=2 / 7, shift=3.2)
    said = card_json(text_student(tiny_flux(guidance_scale=3.5), policy, sampling=FOUR_STEPS), tmp_path)
    assert said["dtype"] == "float32"
    assert said["allowed_nfe"] == [4, MAX_NFE]
    assert said["sampling"]["nfe"] == 4
    assert said["guidance_scale"] == said["teacher"]["guidance_scale"] == 3.5
    assert said["network"]["config_hash"]
    assert said["teacher"]["source"].endswith("e2e_flux/pipeline")


@pytest.mark.parametrize(
    ("policy", "sampling", "allowed"),
    [
        (gmflow(), SamplingSettings(nfe=4, shift=3.2, final_step_scale=0.5), (1, 128)),
        (dx(), SamplingSettings(nfe=1), (1, 128)),
        (dx(segment_size=0.5), SamplingSettings(nfe=2), (2, 128)),
        (dx(segment_size=2 / 7, shift=3.2), SamplingSettings(nfe=4, shift=3.2, final_step_scale=0.5), (4, 128)),
        (dx(shift=3.2), SamplingSettings(nfe=1), None),  # at another shift than trained with, nothing is allowed
    ],
)
def test_allowed_evaluations_are_those_that_the_policy_serves(policy, sampling, allowed) -> None:
    assert stored_student(policy, sampling=sampling).card.allowed_nfe == allowed


def test_most_evaluations_are_those_of_the_settings() -> None:
    assert SamplingSettings(nfe=MAX_NFE)
    with pytest.raises(ValueError, match="nfe"):
        SamplingSettings(nfe=MAX_NFE + 1)


def test_what_follows_from_other_keys_is_reckoned_anew() -> None:
    card = stored_student(gmflow()).card
    text = json.dumps(json.loads(card.model_dump_json()) | {"allowed_nfe": [9, 9], "guidance_scale": 99.0})
    assert StudentCard.parse(text, origin="test") == card
    assert StudentCard.parse(text, origin="test").allowed_nfe == (1, 128)


def test_dtype_is_that_of_the_weights() -> None:
    student = stored_student(gmflow())
    halves = {name: tensor.bfloat16() for name, tensor in student.weights.items()}
    assert StoredStudent(card=student.card, weights=halves).card.dtype == "bfloat16"
    mixed = student.weights | {"proj_out_2.means.bias": torch.zeros(12, dtype=torch.float16)}
    assert StoredStudent(card=student.card, weights=mixed).card.dtype == "float16, float32"
    assert StoredStudent(card=student.card, weights={}).card.dtype is None


def test_cards_of_before_are_read(tmp_path: Path) -> None:
    said = card_json(stored_student(gmflow()), tmp_path)
    for key in ("dtype", *DERIVED):
        del said[key]
    assert StudentCard.parse(json.dumps(said), origin="test").dtype is None
    for name, folder in embedded_students().items():
        card = load_student(name).card
        assert card.dtype == "float16"
        assert card.allowed_nfe == (4 if card.policy.type == "dx" else 1, 128)  # a DX grid spans its own segment only
        assert card.needs_base == name.startswith("emoji")
        assert (folder / CARD).is_file()


def test_only_text_students_need_their_base() -> None:
    assert text_student(tiny_qwen(), gmflow()).card.needs_base
    assert text_student(tiny_qwen(), gmflow(), adapter=None).card.needs_base  # for its encoders
    assert not stored_student(gmflow()).card.needs_base


def test_card_equals_what_is_read_of_it_whatever_diffusers_made_the_config_of() -> None:
    student = text_student(tiny_flux(), gmflow())
    network = student.card.network | {"config": {"axes_dims_rope": (4, 6, 6)}}
    card = StudentCard.model_validate(student.card.model_dump() | {"network": network})
    assert StudentCard.parse(card.model_dump_json(), origin="test") == card
