"""Merged students: shards with an index, a transformer that diffusers itself loads, and damage."""

import json
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from text_students import STUDENTS, TEACHERS, TEXT_POLICIES, text_student
from tiny_models import dx, gmflow, stored_student, tiny_flux

from piflow_cli.engine.students.load import read_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import ModelError
from piflow_cli.formats.released import merged
from piflow_cli.formats.released.layouts import CONFIG, INDEX, WEIGHTS
from piflow_cli.formats.released.merged import MergedFormat


@pytest.fixture
def sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(merged, "MAX_SHARD_BYTES", 100_000)
    save_student(text_student(tiny_flux(), dx(), adapter=None), tmp_path / "student", format_name="merged")
    return tmp_path / "student"


def test_shards_are_small_enough_and_come_back(sharded: Path) -> None:
    shards = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert shards[0] == f"diffusion_pytorch_model-00001-of-0000{len(shards)}.safetensors"
    assert len(shards) > 2
    sizes = [sum(t.nbytes for t in load_file(sharded / name).values()) for name in shards]
    assert max(sizes) <= 100_000
    index = json.loads((sharded / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(sizes)
    stored, format_ = read_student(sharded)
    assert format_.name == "merged"
    expected = text_student(tiny_flux(), dx(), adapter=None)
    assert stored.weights.keys() == expected.weights.keys()
    assert all(torch.equal(stored.weights[name], expected.weights[name]) for name in expected.weights)
    assert stored.card == expected.card


def test_real_size_is_split_at_ten_gigabytes() -> None:
    assert merged.MAX_SHARD_BYTES == 10_000_000_000


@pytest.mark.parametrize("family", TEACHERS)
@torch.no_grad()
def test_diffusers_itself_loads_a_dx_student(tmp_path: Path, family: str) -> None:
    teacher, policy = TEACHERS[family](), TEXT_POLICIES["dx"]
    student = text_student(teacher, policy, adapter=None)
    MergedFormat().write(student, tmp_path)
    module_class = getattr(diffusers, teacher.transformer_class)
    module = module_class.from_pretrained(tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["_class_name"] == teacher.transformer_class
    assert module.config.out_channels == policy.num_points * 16
    loaded = dict(module.named_parameters())
    for name, tensor in student.weights.items():
        assert torch.equal(loaded[name.replace("proj_out.points.", "proj_out.")], tensor), name


def test_card_lies_beside_and_not_in_the_weights(tmp_path: Path) -> None:
    MergedFormat().write(stored_student(gmflow()), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS, "student.json"]


def test_adapter_has_no_place(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a merged student has no LoRA"):
        MergedFormat().write(STUDENTS["flux"](gmflow()), tmp_path)


def test_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=f"there is no file .*{shard.name}"):
        read_student(sharded)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": "../../etc/weights.safetensors"}}', "has no weight_map of tensors to files beside it"),
        ('{"weight_map": {"a": 3}}', "has no weight_map"),
    ],
)
def test_damaged_index_is_refused(sharded: Path, index: str, message: str) -> None:
    (sharded / INDEX).write_text(index)
    with pytest.raises(ModelError, match=message):
        read_student(sharded)


def test_index_and_shards_must_belong_together(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["more.weight"] = next(iter(index["weight_map"].values()))
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lack more\.weight"):
        read_student(sharded)
