"""Converting students there and back, proving it, and refusing to write over anything."""

import json
from pathlib import Path

import parity
import pytest
import torch
from published import part
from tiny_models import dx, gmflow, save_released, save_teacher, stored_student, tiny_vae

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.convert import convert
from piflow_cli.engine.convert.verify import largest_difference
from piflow_cli.engine.students.load import assemble, load_student, read_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import ModelError, PiflowError, PresetError, StorageError

PRESET = """
name = "published"
[teacher]
type = "dit"
source = "none"
prediction = "flow"
timestep_scale = 1.0
num_attention_heads = 2
sample_size = 8
{teacher}
[policy]
type = "{policy}"
[sampling]
nfe = 2
[training]
steps = 1
batch_size = 1
[data]
type = "noise"
"""


def write_preset(path: Path, *, policy: str = "gmflow", teacher: str = "") -> Path:
    path.write_text(PRESET.format(policy=policy, teacher=teacher))
    return path


@pytest.fixture(params=["gmflow", "dx"])
def native(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    policy = {"gmflow": gmflow(), "dx": dx(segment_size=0.5)}[request.param]
    sampling = SamplingSettings(nfe=2, total_substeps=16)
    save_student(stored_student(policy, sampling=sampling), tmp_path / "native")
    return tmp_path / "native"


def test_there_and_back_is_bitwise_the_same(native: Path, tmp_path: Path) -> None:
    there = convert(native, tmp_path / "there", to="lakonlab", verify=True)
    back = convert(there.path, tmp_path / "back", to="native", verify=True)
    assert (there.format, there.source_format) == ("lakonlab", "native")
    assert (back.format, back.source_format) == ("native", "lakonlab")
    assert there.max_difference == back.max_difference == 0
    before, after = (read_student(path)[0] for path in (native, back.path))
    assert before.card == after.card
    assert before.weights.keys() == after.weights.keys()
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in before.weights)
    assert there.num_tensors == back.num_tensors == len(before.weights)
    assert (native / "student.json").read_bytes() == (back.path / "student.json").read_bytes()


def test_without_verify_nothing_is_compared(native: Path, tmp_path: Path) -> None:
    assert convert(native, tmp_path / "there", to="lakonlab").max_difference is None


def test_verify_sees_a_single_changed_weight() -> None:
    for policy in (gmflow(), dx()):
        one, other = stored_student(policy), stored_student(policy)
        name = "transformer_blocks.1.ff.net.2.bias"
        other.weights[name] = other.weights[name].clone()
        other.weights[name][3] += 0.01
        students = [assemble(stored, name="student") for stored in (one, other)]
        assert largest_difference(students[0], students[0]) == 0
        assert largest_difference(*students) > 1e-5


def test_verify_compares_samples_too() -> None:
    one = stored_student(gmflow(), sampling=SamplingSettings(nfe=2, temperature=1.0, total_substeps=16))
    other = stored_student(gmflow(), sampling=SamplingSettings(nfe=2, temperature=0.1, total_substeps=16))
    assert largest_difference(*(assemble(stored, name="student") for stored in (one, other))) > 1e-5


def test_what_the_authors_code_would_get_wrong_is_said(native: Path, tmp_path: Path) -> None:
    result = convert(native, tmp_path / "there", to="lakonlab")
    assert len(result.warnings) == 1
    assert "downscale_freq_shift 1" in result.warnings[0]


@pytest.mark.parametrize(("net", "policy"), [("gmdit_v2", "gmflow"), ("dxdit", "dx")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_published_weights_become_native_with_a_preset(tmp_path: Path, net: str, policy: str, suffix: str) -> None:
    weights = part(parity.load(f"nets/{net}")[0], "state_dict/")
    file = save_released(tmp_path / f"published{suffix}", weights)
    preset = write_preset(tmp_path / "mine.toml", policy=policy)
    settings = {"gmflow": "num_components = 4\nlogstd_inner_dim = 12", "dx": "num_points = 5"}[policy]
    preset.write_text(preset.read_text().replace("[sampling]", f"{settings}\n[sampling]"))
    with pytest.raises(ModelError, match="--preset NAME"):
        convert(file, tmp_path / "native", to="native")
    result = convert(file, tmp_path / "native", to="native", preset=preset, verify=True)
    assert result.max_difference == 0
    assert result.warnings == ()
    student = load_student(str(result.path))
    assert student.card.preset == "published"
    assert student.card.sampling.nfe == 2
    assert student.card.policy.type == policy


def test_preset_whose_shapes_are_others_is_refused(tmp_path: Path) -> None:
    file = save_released(tmp_path / "published.pth", part(parity.load("nets/gmdit_v2")[0], "state_dict/"))
    preset = write_preset(tmp_path / "mine.toml")  # eight components, where the file has four
    with pytest.raises(ModelError, match="do not fit this model"):
        convert(file, tmp_path / "native", to="native", preset=preset)
    assert not (tmp_path / "native").exists()


def test_preset_that_is_not_needed_is_not_used_and_said(native: Path, tmp_path: Path) -> None:
    preset = write_preset(tmp_path / "other.toml")
    result = convert(native, tmp_path / "copy", to="native", preset=preset)
    assert result.warnings == (
        f"preset published was not needed and not used: {native} says itself how it was made (tiny)",
    )
    assert load_student(str(result.path)).card.preset == "tiny"


def test_autoencoder_that_the_preset_names_goes_into_the_folder(tmp_path: Path) -> None:
    tiny_vae().save_pretrained(tmp_path / "vae")
    folder = tmp_path / "published"
    tensors, settings = parity.load("nets/gmdit_v2")
    save_released(folder / "diffusion_pytorch_model.safetensors", part(tensors, "state_dict/"))
    (folder / "config.json").write_text(json.dumps(settings["config"]))
    preset = write_preset(tmp_path / "mine.toml", teacher=f'vae = "{tmp_path / "vae"}"')
    result = convert(folder, tmp_path / "native", to="native", preset=preset, verify=True)
    assert (result.path / "vae" / "config.json").exists()
    (tmp_path / "vae" / "config.json").unlink()
    assert load_student(str(result.path)).space.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 16, 16)


def test_existing_target_is_never_written_over(native: Path, tmp_path: Path) -> None:
    for target in (tmp_path / "folder", tmp_path / "empty", native):
        target.mkdir(exist_ok=True)
        if target.name == "folder":
            (target / "thesis.txt").write_text("years of work")
        with pytest.raises(StorageError, match="exists and is never written over"):
            convert(native, target, to="lakonlab")
    with pytest.raises(StorageError, match="is no student folder, so --force does not replace it"):
        convert(native, tmp_path / "folder", to="lakonlab", force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is no student folder"):
        convert(native, tmp_path / "file", to="lakonlab", force=True)
    assert (tmp_path / "folder" / "thesis.txt").exists()
    assert load_student(str(native)).card.steps == 7


def test_force_does_not_replace_what_cannot_be_read(native: Path, tmp_path: Path) -> None:
    target = tmp_path / "damaged"
    target.mkdir()
    (target / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(StorageError, match="is no student folder"):
        convert(native, target, to="native", force=True)


def test_force_replaces_a_student_even_the_source_itself(native: Path, tmp_path: Path) -> None:
    before, _ = read_student(native)
    weights = {name: tensor.clone() for name, tensor in before.weights.items()}
    result = convert(native, native, to="lakonlab", force=True, verify=True)
    assert result.max_difference == 0
    after, format_ = read_student(native)
    assert format_.name == "lakonlab"
    assert all(torch.equal(after.weights[name], weights[name]) for name in weights)
    (tmp_path / "empty").mkdir()
    assert convert(native, tmp_path / "empty", to="native", force=True).path == tmp_path / "empty"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"to": "lakonlap"}, PiflowError, "unknown format 'lakonlap'. Did you mean lakonlab"),
        ({"src": "nothing"}, ModelError, "unknown student 'nothing'"),
        ({"preset": "nonsense"}, PresetError, "unknown preset 'nonsense'"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(
    native: Path, tmp_path: Path, change: dict, error: type[Exception], message: str
) -> None:
    arguments = {"src": native, "to": "lakonlab"} | change
    with pytest.raises(error, match=message):
        convert(dst=tmp_path / "there", **arguments)
    assert not (tmp_path / "there").exists()


def test_teacher_is_no_student(tmp_path: Path) -> None:
    teacher = save_teacher(tmp_path / "teacher")
    with pytest.raises(ModelError, match="no student in any known format"):
        convert(teacher, tmp_path / "there", to="native")


def test_failed_verification_leaves_nothing(native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from piflow_cli.formats.released.lakonlab import LakonlabFormat

    def damaged(*_: object, **__: object) -> None:
        raise ModelError("does not read back")

    monkeypatch.setattr(LakonlabFormat, "read", damaged)
    with pytest.raises(ModelError, match="does not read back"):
        convert(native, tmp_path / "there", to="lakonlab", verify=True)
    assert not (tmp_path / "there").exists()
