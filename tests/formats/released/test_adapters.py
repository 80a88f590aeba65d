"""Adapters in the published layout: written as they were read, whoever's alpha they have, and of which base."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from text_students import BASES, TEACHERS, TEXT_POLICIES, adapter_folder, text_student
from tiny_models import dx, gmflow, tiny_flux, tiny_qwen
from torch import Tensor

from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.engine.students.load import assemble, read_student
from piflow_cli.errors import ModelError
from piflow_cli.formats.released.lakonlab import LakonlabFormat
from piflow_cli.formats.released.layouts import CARD_KEY, CONFIG, POLICY_KEY, WEIGHTS
from piflow_cli.preset import load_preset

ADAPTERS = [(family, kind) for family in TEACHERS for kind in TEXT_POLICIES]
FF = "transformer_blocks.0.ff.net.2"


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return opened.metadata()


def change_weights(folder: Path, target: Path, change: dict[str, Tensor | None], *, prefix: str = "") -> Path:
    """A copy of an adapter with some tensors put in or, where None, left out."""
    target.mkdir()
    weights = load_file(folder / WEIGHTS) | change
    kept = {prefix + name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, target / WEIGHTS, metadata=metadata_of(folder / WEIGHTS))
    (target / CONFIG).write_text((folder / CONFIG).read_text())
    return target


@pytest.mark.parametrize(("family", "kind"), ADAPTERS)
def test_released_adapter_is_written_as_it_was(tmp_path: Path, family: str, kind: str) -> None:
    folder = adapter_folder(family, kind)
    stored, format_ = read_student(folder)
    assert format_.name == "lakonlab"
    LakonlabFormat().write(stored, tmp_path)
    before, after = load_file(folder / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = (json.loads((place / CONFIG).read_text()) for place in (folder, tmp_path))
    del old["_diffusers_version"]
    assert new == old
    said, written = (json.loads(metadata_of(place / WEIGHTS)[POLICY_KEY]) for place in (folder, tmp_path))
    assert written == said
    assert LakonlabFormat().caveats(stored) == ()


@pytest.mark.parametrize(("family", "kind"), ADAPTERS)
def test_own_student_is_written_with_the_names_and_the_config_of_the_released_ones(
    tmp_path: Path, family: str, kind: str
) -> None:
    student = text_student(TEACHERS[family](), TEXT_POLICIES[kind])
    LakonlabFormat().write(student, tmp_path)
    published = adapter_folder(family, kind)
    assert load_file(tmp_path / WEIGHTS).keys() == load_file(published / WEIGHTS).keys()
    ours, theirs = (json.loads((place / CONFIG).read_text()) for place in (tmp_path, published))
    assert ours.keys() == theirs.keys() - {"_diffusers_version"}
    sizes = {"num_gaussians", "logstd_inner_dim", "out_channels", "_diffusers_version"}
    assert {key: ours[key] for key in ours.keys() - sizes} == {key: theirs[key] for key in theirs.keys() - sizes}
    assert set(metadata_of(tmp_path / WEIGHTS)) == {"format", POLICY_KEY, CARD_KEY}


@pytest.mark.parametrize("family", TEACHERS)
def test_both_class_names_of_a_dx_adapter_are_read(tmp_path: Path, family: str) -> None:
    folder = change_weights(adapter_folder(family, "dx"), tmp_path / "copy_4step", {})
    config = json.loads((folder / CONFIG).read_text())
    stored, _ = read_student(folder)
    (folder / CONFIG).write_text(json.dumps(config | {"_class_name": f"DX{config['_class_name']}"}))
    again, _ = read_student(folder)
    assert again.card == stored.card
    assert again.card.policy.num_points == 10


@pytest.mark.parametrize(("family", "kind"), ADAPTERS)
def test_prefix_of_names_is_accepted(tmp_path: Path, family: str, kind: str) -> None:
    folder = change_weights(adapter_folder(family, kind), tmp_path / "copy_4step", {}, prefix="transformer.")
    stored, plain = read_student(folder)[0], read_student(adapter_folder(family, kind))[0]
    assert stored.card == plain.card
    assert all(torch.equal(stored.weights[name], plain.weights[name]) for name in plain.weights)


def test_alpha_of_other_software_is_folded_into_lora_b(tmp_path: Path) -> None:
    folder = adapter_folder("flux", "gm")
    plain = read_student(folder)[0].weights
    change = {f"{FF}.alpha": torch.tensor(8.0), "single_transformer_blocks.0.proj_mlp.alpha": torch.tensor(4.0)}
    stored, _ = read_student(change_weights(folder, tmp_path / "copy_4step", change))
    assert stored.weights.keys() == plain.keys()
    for name, tensor in stored.weights.items():
        factor = 8 / 4 if name == f"{FF}.lora_B.weight" else 1  # the rank is 4
        assert torch.equal(tensor, plain[name] * factor), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_out.alpha": torch.tensor(4.0)}, r"norm_out\.alpha is no number, or there is no norm_out\.lora_B"),
        ({f"{FF}.alpha": torch.ones(2)}, r"net\.2\.alpha is no number"),
        ({f"{FF}.lora_B.weight": None}, r"lora_A and lora_B of transformer_blocks\.0\.ff\.net\.2 do not belong"),
        ({"proj_out_means.weight": torch.zeros(3, 32)}, r"proj_out\.means\.weight is \[3, 32\].*another base"),
        (
            {f"{FF}.lora_A.weight": torch.zeros(4, 100)},
            r"net\.2\.lora_A\.weight is \[4, 100\], needs \[4, 128\].*student of another base.*--base",
        ),
        (
            {f"transformer_blocks.7.{n}.weight": torch.zeros(4, 4) for n in ("x.lora_A", "x.lora_B")},
            r"has LoRA for transformer_blocks\.7\.x, which black-forest-labs/FLUX\.1-dev has not.*another base",
        ),
    ],
)
def test_adapter_that_does_not_fit_is_named(tmp_path: Path, change: dict, message: str) -> None:
    folder = change_weights(adapter_folder("flux", "gm"), tmp_path / "copy_4step", change)
    with pytest.raises(ModelError, match=message):
        read_student(folder)


def test_layers_that_are_not_the_published_ones_are_kept(tmp_path: Path) -> None:
    settings = AdapterSettings(rank=2, targets=("to_q", "proj_mlp"))
    student = text_student(tiny_flux(), gmflow(), adapter=settings)
    LakonlabFormat().write(student, tmp_path)
    file = tmp_path / WEIGHTS
    save_file(load_file(file), file, metadata={POLICY_KEY: '{"type": "GMFlow"}'})  # as if without our card
    back = LakonlabFormat().read(tmp_path, recipe=load_preset("flux-4nfe"))
    assert back.card.adapter.rank == 2
    assert len(back.card.adapter.targets) == 5
    assert back.weights.keys() == student.weights.keys()


def test_whole_students_of_text_bases_have_a_place(tmp_path: Path) -> None:
    student = text_student(tiny_qwen(), dx(), adapter=None)
    LakonlabFormat().write(student, tmp_path)
    back = assemble(LakonlabFormat().read(tmp_path), name="back", base=str(BASES["qwen"]))
    assert back.card.adapter is None


def test_a_name_without_a_number_is_warned_of(tmp_path: Path) -> None:
    stored, _ = read_student(adapter_folder("flux", "gm"))
    assert stored.card.sampling.nfe == 4
    (warning,) = stored.warnings
    assert "it is taken for one of flux-4nfe, 4 evaluations" in warning
    named = change_weights(adapter_folder("flux", "gm"), tmp_path / "gmflux_k8_piid_4step", {})
    assert read_student(named)[0].warnings == ()
