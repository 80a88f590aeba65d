"""The published layout: names, config and metadata, files without this package's card, and what it cannot say."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
from published import DIT_XL_2, part, published_student
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import dx, gmflow, save_released, stored_student

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.core.student import Student
from piflow_cli.engine.students.load import assemble, load_student, read_student
from piflow_cli.errors import ModelError, PolicyError
from piflow_cli.formats.released.lakonlab import LakonlabFormat
from piflow_cli.formats.released.layouts import CARD_KEY, CONFIG, POLICY_KEY, WEIGHTS, to_released
from piflow_cli.formats.student import StoredStudent, StudentCard
from piflow_cli.policies.dx import DX
from piflow_cli.policies.gmflow.family import GMFlow
from piflow_cli.teachers.dit.config import FREQ_SHIFT
from piflow_cli.teachers.dit.family import DiT
from piflow_cli.teachers.dit.loading.weights import build

PUBLISHED_TEACHER = DiT(source="none", prediction="flow", timestep_scale=1.0, sample_size=8, num_attention_heads=2)
ONE_STEP = SamplingSettings(nfe=1)


@dataclass(frozen=True)
class Recipe:
    """The part of a preset that a format needs."""

    policy: Any
    teacher: Any = PUBLISHED_TEACHER
    sampling: SamplingSettings = ONE_STEP
    adapter: None = None
    name: str = "mine"


NETS = {
    "gmdit_v2": GMFlow(num_components=4, logstd_inner_dim=12, eps=1e-4),
    "gmdit_v2_constlogstd": GMFlow(num_components=2, constant_logstd=-1.5),
    "dxdit": DX(num_points=5, segment_size=1.0, shift=1.0),
}


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return opened.metadata()


def publish(folder: Path, name: str, *, metadata: dict[str, str] | None = None) -> Path:
    """A fixture as the authors release it."""
    tensors, settings = parity.load(f"nets/{name}")
    save_released(folder / WEIGHTS, part(tensors, "state_dict/"), metadata=metadata)
    (folder / CONFIG).write_text(json.dumps(settings["config"]))
    return folder


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    return publish(tmp_path / "mixture", "gmdit_v2", metadata={POLICY_KEY: '{"type": "GMFlow"}'})


@pytest.mark.parametrize("name", NETS)
def test_published_student_is_read_and_runs_as_published(tmp_path: Path, name: str) -> None:
    folder = publish(tmp_path / "released", name)
    family = NETS[name]
    stored, format_ = read_student(folder, recipe=Recipe(policy=family))
    assert format_.name == "lakonlab"
    assert stored.card.policy == family
    assert stored.card.preset == "mine"
    ours = assemble(stored, name=name).network
    x = parity.load(f"nets/{name}")[0]["in/hidden_states"]
    sigma, labels = torch.tensor([0.1, 0.5, 1.0]), torch.tensor([1, 2, 10])
    expected = published_student(name, family)(x, sigma, labels)
    for actual, wanted in zip(ours(x, sigma, labels), expected, strict=True):
        assert (actual is None and wanted is None) or torch.equal(actual, wanted)


@pytest.mark.parametrize("name", NETS)
def test_published_student_is_written_as_it_was(tmp_path: Path, name: str) -> None:
    folder = publish(tmp_path / "released", name)
    stored = LakonlabFormat().read(folder, recipe=Recipe(policy=NETS[name]))
    (tmp_path / "again").mkdir()
    LakonlabFormat().write(stored, tmp_path / "again")
    before, after = load_file(folder / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    old, new = (json.loads((place / CONFIG).read_text()) for place in (folder, tmp_path / "again"))
    assert {key: new[key] for key in old} == old
    assert new[FREQ_SHIFT] == 0
    assert LakonlabFormat().caveats(stored) == ()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_single_file_without_a_config_is_read(tmp_path: Path, name: str, suffix: str, prefix: str) -> None:
    weights = {prefix + key: t for key, t in part(parity.load(f"nets/{name}")[0], "state_dict/").items()}
    metadata = {POLICY_KEY: '{"type": "DX", "segment_size": 1.0, "shift": 1.0}'} if name == "dxdit" else None
    file = save_released(tmp_path / f"student{suffix}", weights, metadata=metadata)
    stored, format_ = read_student(file, recipe=Recipe(policy=NETS[name]))
    assert format_.name == "lakonlab"
    whole = LakonlabFormat().read(publish(tmp_path / "folder", name), recipe=Recipe(policy=NETS[name]))
    assert stored.weights.keys() == whole.weights.keys()
    x, sigma, labels = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 1.0]), torch.tensor([1, 2])
    outputs = [assemble(s, name="s").network(x, sigma, labels)[0] for s in (stored, whole)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("policy", "head", "said"),
    [
        (
            gmflow(),
            {"num_gaussians": 3, "logstd_inner_dim": 8, "gm_num_logstd_layers": 2, "constant_logstd": None},
            {"type": "GMFlow"},
        ),
        (gmflow(constant_logstd=-2.0), {"num_gaussians": 3, "constant_logstd": -2.0}, {"type": "GMFlow"}),
        (dx(), {"out_channels": 12}, {"type": "DX", "segment_size": 1.0, "shift": 1.0}),
        (dx(mode="polynomial"), {"out_channels": 12}, {"type": "DX", "mode": "polynomial"}),
    ],
)
def test_config_and_metadata_are_those_of_the_authors(
    tmp_path: Path, policy: GMFlow | DX, head: dict, said: dict
) -> None:
    LakonlabFormat().write(stored_student(policy, out_channels=8), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    classes = {"gmflow": "GMDiTTransformer2DModelV2", "dx": "DXDiTTransformer2DModel"}
    assert config["_class_name"] == classes[policy.type]
    expected = {"out_channels": None, "num_layers": 2, "in_channels": 4} | head
    assert {key: config[key] for key in expected} == expected
    metadata = metadata_of(tmp_path / WEIGHTS)
    found = json.loads(metadata[POLICY_KEY])
    assert {key: found[key] for key in said} == said
    assert StudentCard.parse(metadata[CARD_KEY], origin="test").policy == policy


def test_names_are_those_of_the_authors(tmp_path: Path) -> None:
    for name, student in (("gmdit_v2", stored_student(gmflow())), ("dxdit", stored_student(dx()))):
        weights, _, _ = to_released(student)
        assert weights.keys() == part(parity.load(f"nets/{name}")[0], "state_dict/").keys()


def test_real_size_student_has_the_published_shapes() -> None:
    teacher = PUBLISHED_TEACHER
    config = DIT_XL_2 | {"_class_name": "DiTTransformer2DModel", FREQ_SHIFT: 0}
    family = GMFlow(num_components=32, eps=1e-4)
    student = Student(build(config, device="meta"), backbone=teacher.backbone(config, None), family=family)
    card = StudentCard(
        piflow_version="0",
        teacher=teacher,
        network={"config": config, "scheduler": None, "labels": None},
        policy=family,
        sampling=SamplingSettings(nfe=1),
    )
    weights, config, _ = to_released(StoredStudent(card=card, weights=dict(student.module.named_parameters())))
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    published = {
        "proj_out_means.weight": [512, 1152],
        "proj_out_means.bias": [512],
        "proj_out_logweights.weight": [128, 1152],
        "proj_out_logstds.1.weight": [1024, 1152],
        "proj_out_logstds.3.weight": [1, 1024],
        "emb.class_embedder.embedding_table.weight": [1001, 1152],
        "emb.timestep_embedder.linear_1.weight": [1152, 256],
        "pos_embed.proj.weight": [1152, 4, 2, 2],
        "transformer_blocks.27.norm1.linear.weight": [6912, 1152],
        "proj_out_1.weight": [2304, 1152],
    }
    assert {name: shapes[name] for name in published} == published
    assert not any(name.startswith("proj_out_2") or ".norm1.emb." in name for name in shapes)
    assert config["num_gaussians"] == 32


def test_time_frequencies_that_the_authors_code_does_not_know_are_told_and_kept(tmp_path: Path) -> None:
    student = stored_student(gmflow(), **{FREQ_SHIFT: 1})
    (caveat,) = LakonlabFormat().caveats(student)
    assert "downscale_freq_shift 1" in caveat
    LakonlabFormat().write(student, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())[FREQ_SHIFT] == 1
    # also for a reader that knows config.json but not the card
    file = tmp_path / WEIGHTS
    save_file(load_file(file), file)
    stored = LakonlabFormat().read(tmp_path, recipe=Recipe(policy=gmflow(), teacher=student.card.teacher))
    assert stored.card.network["config"][FREQ_SHIFT] == 1


def test_student_of_a_diffusion_teacher_is_told() -> None:
    student = stored_student(gmflow(), **{FREQ_SHIFT: 0})
    network = student.card.network | {"scheduler": {"_class_name": "DDIMScheduler"}}
    teacher = student.card.teacher.model_copy(update={"prediction": None})
    student.card = student.card.model_copy(update={"network": network, "teacher": teacher})
    (caveat,) = LakonlabFormat().caveats(student)
    assert "made from a diffusion teacher" in caveat


def test_without_card_and_recipe_it_says_what_to_pass(mixture: Path) -> None:
    with pytest.raises(ModelError, match=r"does not say how it was made \(its NFE.* --to native --preset NAME"):
        read_student(mixture)
    with pytest.raises(ModelError, match=r"--preset NAME"):
        load_student(str(mixture))


def test_what_the_files_say_counts_more_than_the_recipe(tmp_path: Path, mixture: Path) -> None:
    stored = LakonlabFormat().read(mixture, recipe=Recipe(policy=GMFlow(num_components=32, dropout=0.1)))
    assert stored.card.policy == GMFlow(num_components=4, logstd_inner_dim=12, dropout=0.1)

    said = {"type": "DX", "segment_size": 2 / 7, "shift": 3.2}
    folder = publish(tmp_path / "points", "dxdit", metadata={POLICY_KEY: json.dumps(said)})
    sampling = SamplingSettings(nfe=4, shift=3.2, final_step_scale=0.5)
    recipe = Recipe(policy=DX(num_points=10, segment_size=0.5, shift=1.0), sampling=sampling)
    policy = LakonlabFormat().read(folder, recipe=recipe).card.policy
    assert (policy.num_points, policy.segment_size, policy.shift) == (5, 2 / 7, 3.2)
    with pytest.raises(PolicyError, match=r"trained on segments of 0\.285714"):
        LakonlabFormat().read(folder, recipe=replace(recipe, sampling=SamplingSettings(nfe=2, shift=3.2)))


def test_recipe_for_another_policy_is_refused(mixture: Path) -> None:
    with pytest.raises(ModelError, match="holds a GMFlow student, but preset mine is for dx"):
        LakonlabFormat().read(mixture, recipe=Recipe(policy=dx()))


def test_metadata_decides_which_head_it_is(tmp_path: Path) -> None:
    folder = publish(tmp_path / "points", "dxdit", metadata={POLICY_KEY: '{"type": "GMFlow"}'})
    with pytest.raises(ModelError, match="hold no head of GMFlow"):
        LakonlabFormat().read(folder, recipe=Recipe(policy=gmflow()))


@pytest.mark.parametrize("text", ["{", "[1]", "GMFlow"])
def test_damaged_metadata_is_refused(tmp_path: Path, text: str) -> None:
    folder = publish(tmp_path / "released", "gmdit_v2", metadata={POLICY_KEY: text})
    with pytest.raises(ModelError, match=r"policy_config in the metadata .* is not a JSON object"):
        LakonlabFormat().read(folder, recipe=Recipe(policy=gmflow()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gm_num_logstd_layers": 3}, "gm_num_logstd_layers is 3"),
        ({"num_gaussians": -1}, "num_components = -1"),
        ({"num_gaussians": "many"}, "num_components = 'many'"),
    ],
)
def test_config_of_a_head_that_cannot_be_is_refused(mixture: Path, change: dict, message: str) -> None:
    config = json.loads((mixture / CONFIG).read_text()) | change
    (mixture / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        LakonlabFormat().read(mixture, recipe=Recipe(policy=gmflow()))


def test_damaged_card_is_refused(tmp_path: Path) -> None:
    folder = publish(tmp_path / "released", "gmdit_v2", metadata={CARD_KEY: "{}"})
    with pytest.raises(ModelError, match=r"piflow_card of .* is no student card"):
        LakonlabFormat().read(folder)


def test_only_known_policies_have_a_place(tmp_path: Path) -> None:
    class Other:
        type = "other"

    student = stored_student(gmflow())
    student.card = student.card.model_copy(update={"policy": Other()})
    with pytest.raises(ModelError, match="not for other"):
        LakonlabFormat().write(student, tmp_path)


def test_recognises_folders_files_and_only_those(tmp_path: Path, mixture: Path) -> None:
    format_ = LakonlabFormat()
    assert format_.matches(mixture)
    assert format_.matches(mixture / WEIGHTS)
    (mixture / CONFIG).unlink()
    assert format_.matches(mixture)  # by its metadata
    plain = save_released(tmp_path / "plain.safetensors", {"conv.weight": torch.zeros(1)})
    assert not format_.matches(plain)
    assert not format_.matches(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    with pytest.raises(ModelError, match="truncated"):
        format_.matches(tmp_path / "cut.safetensors")
