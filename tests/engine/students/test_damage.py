"""Damaged students are refused: by checksums where they carry them, by kind and value where they do not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_students import FOUR_STEPS, STUDENTS, TEXT_POLICIES, text_student
from tiny_models import dx, gmflow, stored_student, tiny_flux, tiny_vae

from piflow_cli.engine.convert import check, convert
from piflow_cli.engine.students.find import embedded_students
from piflow_cli.engine.students.load import load_student, read_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import ModelError
from piflow_cli.formats.native import read_card
from piflow_cli.io.checksums import MANIFEST, check_manifest, has_manifest
from piflow_cli.io.weights import read_header

FORMATS = {"native": "student.safetensors", "lakonlab": "diffusion_pytorch_model.safetensors"}


def flip(path: Path, *, from_end: int = 100, bit: int = 1) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[-from_end] ^= bit
    path.write_bytes(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_student(stored_student(gmflow()), tmp_path / "student")
    return tmp_path / "student"


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("bit", [1, 128])
def test_a_flipped_bit_is_found(tmp_path: Path, format_name: str, bit: int) -> None:
    save_student(stored_student(dx()), tmp_path / "student", format_name=format_name)
    load_student(str(tmp_path / "student"))
    flip(tmp_path / "student" / FORMATS[format_name], bit=bit)
    for use in (load_student, check):
        with pytest.raises(ModelError, match=rf"student is damaged: {FORMATS[format_name]} is not what was written"):
            use(str(tmp_path / "student"))


def test_a_flipped_bit_of_a_single_file_is_found(tmp_path: Path) -> None:
    save_student(text_student(tiny_flux(), gmflow(), sampling=FOUR_STEPS), tmp_path / "student")
    convert(tmp_path / "student", tmp_path / "pi.safetensors", to="comfyui", verify=True)
    assert check(tmp_path / "pi.safetensors").checksums == "tensors"
    flip(tmp_path / "pi.safetensors")
    for use in (load_student, check):
        with pytest.raises(ModelError, match=r"weights of \S*pi\.safetensors are not those that were written"):
            use(str(tmp_path / "pi.safetensors"))


@pytest.mark.parametrize("name", embedded_students())
def test_embedded_students_carry_checksums(name: str, tmp_path: Path) -> None:
    shutil.copytree(embedded_students()[name], tmp_path / name)
    assert check(tmp_path / name).checksums == "files"
    flip(tmp_path / name / "student.safetensors")
    with pytest.raises(ModelError, match=r"student\.safetensors is not what was written"):
        load_student(str(tmp_path / name))


def test_an_autoencoder_that_was_changed_or_lost_is_found(tmp_path: Path) -> None:
    save_student(stored_student(gmflow(), channels=4), tmp_path / "student", vae=tiny_vae())
    load_student(str(tmp_path / "student"))
    weights = tmp_path / "student" / "vae" / "diffusion_pytorch_model.safetensors"
    flip(weights)
    with pytest.raises(ModelError, match=r"damaged: vae/diffusion_pytorch_model\.safetensors is not"):
        load_student(str(tmp_path / "student"))
    shutil.rmtree(weights.parent)
    with pytest.raises(ModelError, match=r"damaged: vae/config\.json, vae/diffusion_\S* are not what"):
        load_student(str(tmp_path / "student"))


BROKEN = {
    "nan": (lambda t: t * float("nan"), r"not finite \(NaN or infinite\) in {name}"),
    "one inf": (
        lambda t: t.flatten().index_fill(0, torch.tensor([3]), float("inf")).view_as(t),
        "not finite .* {name}",
    ),
    "integers": (lambda t: t.to(torch.int32), "no floating-point numbers: {name} is int32"),
    "booleans": (lambda t: t > 0, "no floating-point numbers: {name} is bool"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("format_name", FORMATS)
def test_weights_of_other_makers_are_finite_floats(tmp_path: Path, kind: str, format_name: str) -> None:
    save_student(stored_student(gmflow()), tmp_path / "student", format_name=format_name)
    (tmp_path / "student" / MANIFEST).unlink()
    file = tmp_path / "student" / FORMATS[format_name]
    weights, metadata = load_file(file), read_header(file)[1]
    assert check(tmp_path / "student").checksums is None
    name = max(weights, key=lambda key: weights[key].numel())
    change, message = BROKEN[kind]
    save_file(weights | {name: change(weights[name])}, file, metadata=metadata)
    for use in (load_student, check):
        with pytest.raises(ModelError, match=rf"{FORMATS[format_name]} are {message.format(name=name)}"):
            use(str(tmp_path / "student"))


def test_an_edited_card_is_warned_of_and_a_new_one_is_not(folder: Path, tmp_path: Path) -> None:
    path = folder / "student.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 8}))
    student = load_student(str(folder))
    assert student.card.steps == 8
    assert student.warnings == (f"{path} was changed after the student was written",)
    assert check(folder).warnings == student.warnings
    result = convert(folder, tmp_path / "again", to="native")
    assert result.warnings == student.warnings
    assert load_student(str(tmp_path / "again")).warnings == ()


def test_students_without_a_manifest_are_read_as_before(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    flip(folder / "student.safetensors")
    assert load_student(str(folder)).warnings == ()


@pytest.mark.parametrize("kind", STUDENTS)
@pytest.mark.parametrize("policy", TEXT_POLICIES)
def test_whole_students_of_every_kind_are_checked_without_their_base(kind: str, policy: str, tmp_path: Path) -> None:
    save_student(STUDENTS[kind](TEXT_POLICIES[policy]), tmp_path / "student")
    assert has_manifest(tmp_path / "student")
    assert check_manifest(tmp_path / "student") == []
    found = check(tmp_path / "student")
    assert (found.format, found.checksums, found.warnings) == ("native", "files", ())
    assert found.num_tensors == len(read_student(tmp_path / "student")[0].weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["network"]["config"].update(num_layers=10**6), "num_layers = 1000000; no network"),
        (
            lambda card: card["network"]["config"].update(num_layers=1000),
            r"num_layers = 1000, but its weights are \d",
        ),
        (lambda card: card["network"]["config"].update(attention_head_dim=10**9), "attention_head_dim = 1000000000"),
        (lambda card: card["policy"].update(logstd_inner_dim=10**9), "logstd_inner_dim = 1000000000"),
        (lambda card: card.update(steps=10**30), "more than 63 bits"),
        (lambda card: card["network"].update(labels=json.loads("[" * 100 + "]" * 100)), "nested more than 64 deep"),
    ],
)
def test_a_card_of_another_size_than_its_weights_builds_nothing(folder: Path, change, message: str) -> None:
    path = folder / "student.json"
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))
    with pytest.raises(ModelError, match=message):
        load_student(str(folder))


def test_a_card_of_another_rank_than_its_weights_builds_nothing(tmp_path: Path) -> None:
    save_student(text_student(tiny_flux(), gmflow(), sampling=FOUR_STEPS), tmp_path / "student")
    path = tmp_path / "student" / "student.json"
    card = json.loads(path.read_text())
    for adapter, message in (
        ({"rank": 4096}, "says LoRA of rank 4096, but its weights have 4"),
        ({"targets": [f"layer{i}" for i in range(1000)]}, "names 1000 layers with LoRA, but its weights have"),
    ):
        path.write_text(json.dumps(card | {"adapter": card["adapter"] | adapter}))
        with pytest.raises(ModelError, match=message):
            load_student(str(tmp_path / "student"))


def test_a_card_does_not_decide_that_this_machine_compiles(tmp_path: Path) -> None:
    """`compiled` starts a compiler: it is the machine's matter, and no file's."""
    save_student(stored_student(gmflow(compiled=True)), tmp_path / "student")
    assert json.loads((tmp_path / "student" / "student.json").read_text())["policy"]["compiled"] is True
    assert not read_card(tmp_path / "student").policy.compiled
