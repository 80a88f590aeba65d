"""Converting adapters of text-to-image bases: round trips, merging, what each proof compared, and mistakes."""

import json
import shutil
from pathlib import Path

import diffusers
import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from text_students import BASES, FOUR_STEPS, TEACHERS, TEXT_POLICIES, adapter_folder, text_student
from tiny_models import gmflow, stored_student

from piflow_cli.core.sampling import sample_student
from piflow_cli.engine.convert import convert
from piflow_cli.engine.convert.merge import base_dtype, merge
from piflow_cli.engine.convert.verify import check_same
from piflow_cli.engine.students.load import assemble, load_student, read_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import ModelError, StorageError
from piflow_cli.formats.native import NativeFormat
from piflow_cli.formats.released.comfyui import ComfyUIFormat
from piflow_cli.formats.student import StoredStudent

ADAPTERS = [(family, kind) for family in TEACHERS for kind in TEXT_POLICIES]
TRANSFORMER = BASES["flux"] / "transformer" / "diffusion_pytorch_model.safetensors"
SMALL = {"width": 48, "height": 64, "max_sequence_length": 12}
"""Settings of the base that keep networks small."""


def trained(folder: Path, family: str = "flux", kind: str = "gm") -> Path:
    """A native student whose weights look trained, on a small base that its card names."""
    save_student(text_student(TEACHERS[family](), TEXT_POLICIES[kind], sampling=FOUR_STEPS), folder)
    return folder


def same(a: StoredStudent, b: StoredStudent) -> bool:
    check_same(a, b, place=Path("test"))
    return True


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(("family", "kind"), ADAPTERS)
def test_released_adapter_goes_round_bitwise_without_a_base(tmp_path: Path, family: str, kind: str) -> None:
    source = adapter_folder(family, kind)
    place, formats = source, ["native", "comfyui", "lakonlab", "comfyui", "native"]
    for step, name in enumerate(formats):
        target = tmp_path / f"{step}{'.safetensors' if name == 'comfyui' else ''}"
        result = convert(place, target, to=name, verify=True)
        assert (result.path, result.format, result.proof) == (target, name, "tensors")
        assert result.max_difference is None
        assert [said for said in result.warnings if "taken for one of" not in said] == []
        assert len(result.warnings) == (step == 0)  # what is written says what it is
        assert target.is_file() == (name == "comfyui")
        place = target
    assert same(read_student(source)[0], read_student(place)[0])
    assert (tmp_path / "0" / "student.json").read_bytes() == (place / "student.json").read_bytes()


@pytest.mark.parametrize(("family", "kind"), ADAPTERS)
def test_trained_student_goes_round_bitwise_and_its_base_proves_it(tmp_path: Path, family: str, kind: str) -> None:
    native = trained(tmp_path / "native", family, kind)
    there = convert(native, tmp_path / "there.safetensors", to="comfyui", verify=True)
    assert (there.proof, there.max_difference, there.relative_difference) == ("outputs", 0, 0)
    released = convert(there.path, tmp_path / "released", to="lakonlab")
    assert (released.proof, released.max_difference) == (None, None)
    back = convert(released.path, tmp_path / "back", to="native")
    assert (native / "student.json").read_bytes() == (back.path / "student.json").read_bytes()
    assert same(read_student(native)[0], read_student(back.path)[0])


@pytest.mark.parametrize(("family", "kind"), ADAPTERS)
@torch.no_grad()
def test_merged_student_is_the_adapter_on_its_base(tmp_path: Path, family: str, kind: str) -> None:
    stored = text_student(TEACHERS[family](), TEXT_POLICIES[kind], sampling=FOUR_STEPS)
    whole = merge(stored, name="student", base=None, dtype=None)
    assert whole.card == stored.card.model_copy(update={"adapter": None})
    assert whole.card.dtype == "float32"
    before, after = (assemble(student, name="student") for student in (stored, whole))
    condition = before.space.preview_conditions(2)
    x = torch.randn((2, *before.space.latent_shape), generator=torch.Generator().manual_seed(0))
    for sigma in (1.0, 0.5, 0.1):
        pairs = zip(*(s.network(x, torch.full((2,), sigma), condition) for s in (before, after)), strict=True)
        for ours, theirs in pairs:
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    latents = [
        sample_student(s.network, s.card.policy, x, condition, settings=s.card.sampling) for s in (before, after)
    ]
    torch.testing.assert_close(*latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "kind"), ADAPTERS)
def test_merged_folder_needs_no_transformer_of_its_base(tmp_path: Path, family: str, kind: str) -> None:
    source = adapter_folder(family, kind)
    result = convert(source, tmp_path / "merged", to="merged", base=BASES[family], verify=True)
    assert result.proof == "outputs"
    assert result.relative_difference < 1e-6
    assert result.warnings == ()
    base = shutil.copytree(BASES[family], tmp_path / "base")
    (base / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    student = load_student(str(result.path), base=str(base), teacher_changes=SMALL)
    assert student.card.adapter is None
    assert student.card.teacher.source == str(BASES[family].resolve())
    native = convert(result.path, tmp_path / "native", to="native", base=base, verify=True)
    assert (native.proof, native.max_difference) == ("outputs", 0)
    again = convert(native.path, tmp_path / "again", to="merged", verify=True)
    assert same(read_student(result.path)[0], read_student(again.path)[0])
    with pytest.raises(ModelError, match="LoRA is merged into its weights"):
        convert(result.path, tmp_path / "comfy.safetensors", to="comfyui")


def test_merging_keeps_the_dtype_of_the_base_and_says_that_it_rounds(tmp_path: Path) -> None:
    base = shutil.copytree(BASES["flux"], tmp_path / "base")
    module = diffusers.FluxTransformer2DModel.from_pretrained(base / "transformer")
    module.to(torch.bfloat16).save_pretrained(base / "transformer")
    native = trained(tmp_path / "native")
    result = convert(native, tmp_path / "merged", to="merged", base=base, verify=True)
    assert read_student(result.path)[0].card.dtype == "bfloat16"
    assert result.warnings == ("merging rounded base and LoRA to bfloat16; --verify says how much it matters",)
    assert 1e-4 < result.relative_difference < 0.05
    wide = convert(native, tmp_path / "wide", to="merged", base=base, dtype="float32", verify=True)
    assert read_student(wide.path)[0].card.dtype == "float32"
    assert wide.relative_difference < 1e-6
    with pytest.raises(ModelError, match="dtype 'int8' is not known"):
        convert(native, tmp_path / "other", to="merged", base=base, dtype="int8")


def test_lora_is_added_in_float32_before_it_is_rounded() -> None:
    stored = text_student(TEACHERS["flux"](), gmflow())
    exact, rounded = (merge(stored, name="s", base=None, dtype=d) for d in (torch.float32, torch.bfloat16))
    base = {name: tensor.bfloat16() for name, tensor in load_file(TRANSFORMER).items()}
    name = "transformer_blocks.0.ff.net.2"
    delta = stored.weights[f"{name}.lora_B.weight"] @ stored.weights[f"{name}.lora_A.weight"]
    expected = (base[f"{name}.weight"].float() + delta).bfloat16()
    torch.testing.assert_close(rounded.weights[f"{name}.weight"], expected, rtol=2**-7, atol=1e-8)
    assert torch.equal(rounded.weights["norm_out.linear.weight"], exact.weights["norm_out.linear.weight"].bfloat16())


def test_whole_students_of_class_models_are_sharded_as_they_are(tmp_path: Path) -> None:
    save_student(stored_student(gmflow()), tmp_path / "native")
    result = convert(tmp_path / "native", tmp_path / "merged", to="merged", verify=True)
    assert (result.proof, result.max_difference) == ("outputs", 0)
    assert same(read_student(tmp_path / "native")[0], read_student(result.path)[0])


def test_foreign_file_is_read_with_its_base(tmp_path: Path) -> None:
    released = adapter_folder("qwen", "gm") / "diffusion_pytorch_model.safetensors"
    file = shutil.copy(released, tmp_path / "gmqwen-4step.safetensors")
    with pytest.raises(ModelError, match=r"another base.*--base"):
        convert(file, tmp_path / "native", to="native")
    result = convert(file, tmp_path / "native", to="native", base=BASES["qwen"], verify=True)
    assert (result.source_format, result.proof, result.max_difference) == ("comfyui", "outputs", 0)
    card = read_student(result.path)[0].card
    assert (card.preset, card.teacher.source) == ("qwen-4nfe", str(BASES["qwen"].resolve()))


def test_what_is_not_needed_is_said(tmp_path: Path) -> None:
    native = trained(tmp_path / "native")
    result = convert(native, tmp_path / "a", to="lakonlab", base=BASES["qwen"], dtype="bfloat16")
    assert result.warnings == (
        f"base {BASES['qwen'].resolve()} was not needed and not used",
        "dtype is that of merged weights; all others keep their own",
    )
    save_student(stored_student(gmflow()), tmp_path / "dit")
    result = convert(tmp_path / "dit", tmp_path / "b", to="native", base=BASES["qwen"], verify=True)
    assert len(result.warnings) == 1


@pytest.mark.parametrize("options", [{"to": "merged"}, {"to": "lakonlab", "verify": True}])
def test_adapter_of_another_base_is_refused_with_the_keys(tmp_path: Path, options: dict) -> None:
    native = trained(tmp_path / "native")
    base = shutil.copytree(BASES["flux"], tmp_path / "base")
    config = json.loads((base / "transformer" / "config.json").read_text())
    (base / "transformer" / "config.json").write_text(json.dumps(config | {"num_single_layers": 1}))
    weights = base / "transformer" / "diffusion_pytorch_model.safetensors"
    kept = {name: t for name, t in load_file(weights).items() if not name.startswith("single_transformer_blocks.1.")}
    save_file(kept, weights)
    with pytest.raises(ModelError, match="num_single_layers is 2 in the student, 1 in the base"):
        convert(native, tmp_path / "there", base=base, **options)
    with pytest.raises(ModelError, match="another family"):
        convert(native, tmp_path / "there", base=BASES["qwen"], **options)
    assert not (tmp_path / "there").exists()


@pytest.mark.usefixtures("offline")
def test_merging_without_a_reachable_base_is_refused(tmp_path: Path) -> None:
    source = adapter_folder("flux", "gm")
    with pytest.raises(ModelError, match=r"cannot be merged into its base \(--base .*hf download black-forest-labs"):
        convert(source, tmp_path / "merged", to="merged")
    with pytest.raises(ModelError, match=r"cannot be merged.*does not exist here"):
        convert(source, tmp_path / "merged", to="merged", base="/no/such/base")
    assert not (tmp_path / "merged").exists()


def test_dtype_that_nothing_is_computed_in_must_be_replaced(tmp_path: Path) -> None:
    base = shutil.copytree(BASES["flux"], tmp_path / "base")
    file = base / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: t.to(torch.float8_e4m3fn) for name, t in load_file(file).items()}, file)
    family = TEACHERS["flux"](source=str(base))
    with pytest.raises(ModelError, match=r"stored as F8_E4M3; say in which dtype to compute \(--dtype float32"):
        base_dtype(family)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ModelError, match="truncated or damaged"):
        base_dtype(family)
    file.unlink()
    with pytest.raises(ModelError, match="stored as unknown"):
        base_dtype(family)


@pytest.mark.parametrize("kind", ["file", "folder", "pipeline"])
def test_a_transformer_of_its_own_says_the_dtype_of_a_base(tmp_path: Path, kind: str) -> None:
    places = {"file": "one", "folder": "own/diffusion_pytorch_model", "pipeline": "own/transformer/weights"}
    place = tmp_path / f"{places[kind]}.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.bfloat16() for name, tensor in load_file(TRANSFORMER).items()}, place)
    own = place if kind == "file" else tmp_path / "own"
    assert base_dtype(TEACHERS["flux"]()) == torch.float32
    assert base_dtype(TEACHERS["flux"](transformer=str(own))) == torch.bfloat16
    with pytest.raises(ModelError, match="stored as unknown"):
        base_dtype(TEACHERS["flux"](transformer=str(shutil.copy(place, tmp_path / "pickled.pt"))))


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_truncated_sources_are_refused(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "cut.safetensors"
    content = (adapter_folder("flux", "gm") / "diffusion_pytorch_model.safetensors").read_bytes()
    file.write_bytes(content[:keep])
    with pytest.raises(ModelError, match=r"cut\.safetensors cannot be read as weights"):
        convert(file, tmp_path / "native", to="native")


def test_student_whose_weights_do_not_fit_its_card_is_refused_without_a_base(tmp_path: Path) -> None:
    native = trained(tmp_path / "native")
    stored, _ = read_student(native)
    del stored.weights["norm_out.linear.bias"]
    shutil.rmtree(native)
    save_student(stored, native)
    with pytest.raises(ModelError, match=r"do not fit this model: missing norm_out\.linear\.bias"):
        convert(native, tmp_path / "there", to="lakonlab")


def test_targets_are_of_the_right_kind_and_never_written_over(tmp_path: Path) -> None:
    native = trained(tmp_path / "native")
    with pytest.raises(StorageError, match=r"comfyui is one file; let DST end in \.safetensors"):
        convert(native, tmp_path / "folder", to="comfyui")
    with pytest.raises(StorageError, match="lakonlab is a folder"):
        convert(native, tmp_path / "x.safetensors", to="lakonlab")
    file = tmp_path / "student.safetensors"
    file.write_bytes(b"someone's work")
    with pytest.raises(StorageError, match="exists and is never written over"):
        convert(native, file, to="comfyui")
    with pytest.raises(StorageError, match="is no student file, so --force does not replace it"):
        convert(native, file, to="comfyui", force=True)
    assert file.read_bytes() == b"someone's work"
    file.unlink()
    convert(native, file, to="comfyui")
    (tmp_path / "dx").mkdir()
    other = trained(tmp_path / "dx" / "native", kind="dx")
    assert convert(other, file, to="comfyui", force=True, verify=True).max_difference == 0
    assert read_student(file)[0].card.policy.type == "dx"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dx", "native", "student.safetensors"]


def test_failed_verification_of_a_file_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native, stored = trained(tmp_path / "native"), NativeFormat().read(tmp_path / "native")
    stored.weights["norm_out.linear.bias"] = stored.weights["norm_out.linear.bias"] + 1
    monkeypatch.setattr(ComfyUIFormat, "read", lambda *_, **__: stored)
    with pytest.raises(ModelError, match=r"does not read back as it was written: norm_out\.linear\.bias"):
        convert(native, tmp_path / "there.safetensors", to="comfyui", verify=True)
    stored.card = stored.card.model_copy(update={"steps": 99})
    with pytest.raises(ModelError, match="does not read back with the card"):
        convert(native, tmp_path / "there.safetensors", to="comfyui", verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["native"]


def test_file_is_as_open_as_its_folder(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    result = convert(trained(tmp_path / "native"), tmp_path / "shared" / "s.safetensors", to="comfyui")
    assert result.path.stat().st_mode & 0o777 == 0o644


def test_runs_with_the_students_own_base_where_none_is_named(tmp_path: Path) -> None:
    native = trained(tmp_path / "native")
    assert convert(native, tmp_path / "merged", to="merged", verify=True).relative_difference < 1e-6
    with pytest.raises(ModelError, match="another family"):
        assemble(read_student(native)[0], name="s", base=str(BASES["qwen"]))
