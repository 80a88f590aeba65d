"""ComfyUI-piFlow's single file: what its loader finds in it, and reading files that others wrote."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from text_students import BASES, TEACHERS, TEXT_POLICIES, adapter_folder, text_student
from tiny_models import dx, gmflow, stored_student, tiny_flux
from torch import Tensor

from piflow_cli.engine.students.load import assemble, change_teacher, read_student
from piflow_cli.errors import ModelError
from piflow_cli.formats.released.comfyui import ComfyUIFormat
from piflow_cli.formats.released.lakonlab import LakonlabFormat
from piflow_cli.formats.released.layouts import CARD_KEY, POLICY_KEY, WEIGHTS
from piflow_cli.formats.student import Recipe, StudentCard
from piflow_cli.io.checksums import TENSORS_KEY, tensors_sha256
from piflow_cli.policies.gmflow.family import GMFlow
from piflow_cli.preset import Preset, load_preset

ADAPTERS = [(family, kind) for family in TEACHERS for kind in TEXT_POLICIES]
PRESETS = {("flux", "gm"): "flux-4nfe", ("flux", "dx"): "flux-4nfe-dx", ("qwen", "gm"): "qwen-4nfe"}
PRESETS |= {("qwen", "dx"): "qwen-4nfe-dx"}
FORMAT = ComfyUIFormat()


def opened(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(file, framework="pt") as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}, handle.metadata()  # noqa: SIM118


def foreign_file(family: str, kind: str, path: Path, *, prefix: str = "") -> Path:
    """A released weight file alone, as people put it into ComfyUI's folder: no config, no card."""
    weights, metadata = opened(adapter_folder(family, kind) / WEIGHTS)
    lora = {name: (prefix if ".lora_" in name else "") + name for name in weights}
    save_file({lora[name]: tensor for name, tensor in weights.items()}, path, metadata=metadata)
    return path


def on_tiny_base(name: str, family: str) -> Preset:
    recipe = load_preset(name)
    return recipe.model_copy(update={"teacher": change_teacher(recipe.teacher, {"source": str(BASES[family])})})


@pytest.mark.parametrize(("family", "kind"), ADAPTERS)
def test_loader_finds_lora_and_head_by_the_names_that_it_knows(tmp_path: Path, family: str, kind: str) -> None:
    student = text_student(TEACHERS[family](), TEXT_POLICIES[kind])
    FORMAT.write(student, tmp_path / "student.safetensors")
    weights, metadata = opened(tmp_path / "student.safetensors")
    lora = {name for name in weights if "lora" in name}
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in lora)
    assert not any(name.startswith("transformer.") for name in weights)
    heads = {"gm": {"proj_out_means", "proj_out_logweights", "proj_out_logstds.1", "proj_out_logstds.3"}}
    head = heads.get(kind, {"proj_out"})
    full = {f"{layer}.{end}" for layer in head | {"norm_out.linear"} for end in ("weight", "bias")}
    assert weights.keys() - lora == full
    if kind == "gm":  # sizes as the loader infers them from the shapes
        components = weights["proj_out_logweights.weight"].shape[0] // 4
        assert components == student.card.policy.num_components
        assert weights["proj_out_means.weight"].shape[0] // components == 16
    assert json.loads(metadata[POLICY_KEY])["type"] == {"gm": "GMFlow", "dx": "DX"}[kind]


@pytest.mark.parametrize(("family", "kind"), ADAPTERS)
def test_file_holds_what_the_released_weight_file_does(tmp_path: Path, family: str, kind: str) -> None:
    stored, _ = read_student(adapter_folder(family, kind))
    FORMAT.write(stored, tmp_path / "student.safetensors")
    LakonlabFormat().write(stored, tmp_path)
    ours, theirs = opened(tmp_path / "student.safetensors"), opened(tmp_path / WEIGHTS)
    assert ours[1] == theirs[1] | {TENSORS_KEY: tensors_sha256(ours[0])}
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])
    assert StudentCard.parse(ours[1][CARD_KEY], origin="test") == stored.card


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize(("family", "kind"), ADAPTERS)
def test_foreign_file_is_read_by_its_shapes(tmp_path: Path, family: str, kind: str, prefix: str) -> None:
    file = foreign_file(family, kind, tmp_path / "pi.safetensors", prefix=prefix)
    stored, format_ = read_student(file, recipe=on_tiny_base(PRESETS[family, kind], family))
    assert format_.name == "comfyui"
    published, _ = read_student(adapter_folder(family, kind))
    assert stored.card.policy == published.card.policy
    assert stored.card.adapter == published.card.adapter
    assert stored.weights.keys() == published.weights.keys()
    assert all(torch.equal(stored.weights[name], published.weights[name]) for name in stored.weights)
    assemble(stored, name="student")  # its card names the base


@pytest.mark.parametrize(("family", "kind"), ADAPTERS)
def test_usual_preset_follows_from_the_names(tmp_path: Path, family: str, kind: str) -> None:
    assert FORMAT.usual_preset(foreign_file(family, kind, tmp_path / "pi-4step.safetensors")) == PRESETS[family, kind]


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("gmflux_k8_piid_4step", "flux-4nfe"),
        ("gmflux_k8_piid_8step", "flux-8nfe"),
        ("Pi-FLUX 8-Steps v2", "flux-8nfe"),
        ("4_step", "flux-4nfe"),
        ("pi", "flux-4nfe"),
        ("gmflux_k8_piid_14step", None),
        ("gmflux_k8_piid_48step", None),
        ("gmflux_k8_piid_2step", None),
        ("gmflux_k84steps", None),
        ("v1.4step", None),
        ("4stepper", None),
        ("from_8step_to_4step", None),
    ],
)
def test_a_name_that_tells_another_number_is_never_guessed(tmp_path: Path, name: str, preset: str | None) -> None:
    file = foreign_file("flux", "gm", tmp_path / f"{name}.safetensors")
    assert FORMAT.usual_preset(file) == preset
    (tmp_path / name).mkdir()
    shutil.copytree(adapter_folder("flux", "gm"), tmp_path / name, dirs_exist_ok=True)
    for place in (tmp_path / name, tmp_path / name / WEIGHTS):
        assert LakonlabFormat().usual_preset(place) == preset
    if preset is None:
        known = r"flux-4nfe \(4step\), flux-8nfe \(8step\), .*--preset NAME"
        for place in (file, tmp_path / name):
            with pytest.raises(ModelError, match=known):
                read_student(place)
            stored, _ = read_student(place, recipe=load_preset("flux-8nfe"), base=str(BASES["flux"]))
            assert stored.card.sampling.nfe == 8


def test_name_of_the_file_tells_the_evaluations(tmp_path: Path) -> None:
    assert FORMAT.usual_preset(foreign_file("flux", "gm", tmp_path / "gmflux_k8_8step.safetensors")) == "flux-8nfe"
    student = text_student(tiny_flux(), gmflow())
    FORMAT.write(student, tmp_path / "own_8step.safetensors")
    assert FORMAT.usual_preset(tmp_path / "own_8step.safetensors") is None  # the card says it


def test_small_adapter_is_not_one_of_the_published_base(tmp_path: Path) -> None:
    file = foreign_file("flux", "gm", tmp_path / "pi-4step.safetensors")
    with pytest.raises(ModelError, match=r"means\.weight has 128 rows|do not fit this model.*another base.*--base"):
        read_student(file)


def test_adapter_of_another_base_names_its_layers(tmp_path: Path) -> None:
    weights, metadata = opened(adapter_folder("flux", "gm") / WEIGHTS)
    deeper = {
        name.replace("single_transformer_blocks.1.", "single_transformer_blocks.5."): weights[name] for name in weights
    }
    save_file(deeper, tmp_path / "pi.safetensors", metadata=metadata)
    with pytest.raises(ModelError, match=r"has LoRA for single_transformer_blocks\.5\.proj_mlp.*another base"):
        read_student(tmp_path / "pi.safetensors", recipe=on_tiny_base("flux-4nfe", "flux"))


def test_unknown_family_is_refused(tmp_path: Path) -> None:
    weights, metadata = opened(adapter_folder("flux", "gm") / WEIGHTS)
    strange = {name: tensor for name, tensor in weights.items() if not name.startswith("single_transformer_blocks.")}
    save_file(strange, tmp_path / "pi.safetensors", metadata=metadata)
    with pytest.raises(ModelError, match=r"unknown family: none of its layers is in proj_mlp \(flux\)"):
        read_student(tmp_path / "pi.safetensors")


def test_preset_of_another_family_is_refused(tmp_path: Path) -> None:
    file = foreign_file("qwen", "gm", tmp_path / "pi.safetensors")
    with pytest.raises(ModelError, match="adapter of a qwen_image base, but preset flux-4nfe is for flux"):
        read_student(file, recipe=load_preset("flux-4nfe"))
    with pytest.raises(ModelError, match="holds a GMFlow student, but preset qwen-4nfe-dx is for dx"):
        read_student(file, recipe=on_tiny_base("qwen-4nfe-dx", "qwen"))
    with pytest.raises(ModelError, match="Name the preset it was trained by"):
        FORMAT.read(file)


def test_recipe_without_an_adapter_takes_it_from_the_file(tmp_path: Path) -> None:
    file = foreign_file("flux", "gm", tmp_path / "pi.safetensors")
    recipe: Recipe = on_tiny_base("flux-4nfe", "flux").model_copy(update={"adapter": None})
    assert read_student(file, recipe=recipe)[0].card.adapter.rank == 4


def test_other_students_have_no_place_and_hear_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="none of type dit"):
        FORMAT.write(stored_student(gmflow()), tmp_path / "student.safetensors")
    with pytest.raises(ModelError, match=r"LoRA is merged into its weights"):
        FORMAT.write(text_student(tiny_flux(), gmflow(), adapter=None), tmp_path / "student.safetensors")
    assert not (tmp_path / "student.safetensors").exists()


def test_constant_log_std_is_what_the_loader_gets_wrong() -> None:
    (caveat,) = FORMAT.caveats(text_student(tiny_flux(), GMFlow(num_components=3, constant_logstd=-2.0)))
    assert "log-std -2.0" in caveat
    assert FORMAT.caveats(text_student(tiny_flux(), dx())) == ()


def test_plain_lora_of_other_software_is_no_student(tmp_path: Path) -> None:
    lora = {
        name: tensor for name, tensor in load_file(adapter_folder("flux", "gm") / WEIGHTS).items() if "lora" in name
    }
    save_file(lora, tmp_path / "style.safetensors")
    assert not FORMAT.matches(tmp_path / "style.safetensors")
    assert not LakonlabFormat().matches(tmp_path / "style.safetensors")


def test_weight_file_beside_its_config_is_the_released_layout() -> None:
    file = adapter_folder("flux", "gm") / WEIGHTS
    assert not FORMAT.matches(file)
    assert LakonlabFormat().matches(file)
