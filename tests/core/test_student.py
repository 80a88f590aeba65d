"""The student network: its numbers against the published ones, its start at the teacher, and its size on paper."""

import math

import parity
import pytest
import torch
from published import DIT_XL_2, our_names, part, published_module, published_student
from tiny_models import gmflow, randomise, tiny_module
from torch import Tensor

from piflow_cli.core.student import Student, make_policy
from piflow_cli.policies.dx import DX
from piflow_cli.policies.gmflow.family import GMFlow
from piflow_cli.teachers.dit.backbone import DiTBackbone
from piflow_cli.teachers.dit.config import to_diffusers
from piflow_cli.teachers.dit.loading.weights import build, load_weights

BACKBONE = DiTBackbone(latent_channels=4, patch_size=2, timestep_scale=1.0)


@pytest.mark.parametrize("unit", ["unit", "thousand"])
@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("gmdit_v2", GMFlow(num_components=4, logstd_inner_dim=12)),
        ("gmdit_v2_constlogstd", GMFlow(num_components=2, constant_logstd=-1.5)),
    ],
)
def test_mixture_student_equals_the_published_one(name: str, family: GMFlow, unit: str) -> None:
    tensors, _ = parity.load(f"nets/{name}")
    student = published_student(name, family)
    times = tensors[f"in/timestep_{unit}"]
    output, logstds = student(tensors["in/hidden_states"], times, tensors["in/class_labels"])
    expected = part(tensors, f"out_{unit}/")
    k = family.num_components
    parity.assert_close(output[:, : 4 * k].unflatten(1, (k, 4)), expected["means"])
    parity.assert_close(output[:, 4 * k :].log_softmax(1).unsqueeze(2), expected["logweights"])
    parity.assert_close(logstds, expected["logstds"].flatten())


@pytest.mark.parametrize("unit", ["unit", "thousand"])
def test_points_student_equals_the_published_one(unit: str) -> None:
    tensors, _ = parity.load("nets/dxdit")
    student = published_student("dxdit", DX(num_points=5, segment_size=1.0, shift=1.0))
    times = tensors[f"in/timestep_{unit}"]
    output, extra = student(tensors["in/hidden_states"], times, tensors["in/class_labels"])
    parity.assert_close(output.unflatten(1, (5, 4)), tensors[f"out_{unit}/denoising_output"])
    assert extra is None


def new_student(name: str, family: GMFlow | DX) -> tuple[Student, dict[str, Tensor]]:
    """A student of the fixture's teacher, and the tensors that the published code makes of it."""
    tensors, _ = parity.load(f"nets/{name}")
    module = published_module(name)
    load_weights(module, to_diffusers(part(tensors, "teacher/")), source=name, dtype=torch.float32)
    student = Student.from_teacher(module, backbone=BACKBONE, family=family, generator=torch.Generator())
    return student, our_names(part(tensors, "student/"), family)


def test_mixture_starts_with_the_published_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published noise is handed out in the place of the one draw of standard normals."""
    noise = parity.load("nets/init_gmdit_v2")[0]["noise_raw"]
    monkeypatch.setattr(torch, "randn", lambda shape, **_: noise.view(shape))
    student, expected = new_student("init_gmdit_v2", GMFlow(num_components=4, logstd_inner_dim=12))
    actual = dict(student.module.named_parameters())
    assert actual.keys() == expected.keys()
    hidden = "proj_out_2.logstds.1."
    for name, tensor in expected.items():
        if not name.startswith(hidden):
            parity.assert_close(actual[name].detach(), tensor)
    weight = actual[hidden + "weight"]
    assert weight.shape == expected[hidden + "weight"].shape
    bound = math.sqrt(6 / sum(weight.shape))  # Xavier, as both draw it
    for drawn in (weight.detach(), expected[hidden + "weight"]):
        assert 0.8 * bound < drawn.abs().max() <= bound
    assert actual[hidden + "bias"].abs().max() == 0


def test_points_start_with_the_published_tensors() -> None:
    student, expected = new_student("init_dxdit", DX(num_points=5, segment_size=1.0, shift=1.0))
    actual = dict(student.module.named_parameters())
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        parity.assert_close(actual[name].detach(), tensor)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([1.0, 0.7, 0.2]), torch.tensor([0, 4, 9])


@pytest.mark.parametrize("bias_noise", [0.0, 0.05])
def test_mixture_starts_at_its_teacher_but_for_the_noise_on_the_bias(bias_noise: float) -> None:
    x, sigma, labels = inputs()
    u_teacher = BACKBONE.predict(tiny_module(), x, sigma, labels)
    student = Student.from_teacher(
        tiny_module(),
        backbone=BACKBONE,
        family=gmflow(bias_noise=bias_noise),
        generator=torch.Generator().manual_seed(1),
    )
    u_student = student.policy(x, sigma, labels).velocity(x, sigma)
    draw = torch.randn((3, 4), generator=torch.Generator().manual_seed(1))
    expected = u_teacher + bias_noise * draw.mean(0).view(1, 4, 1, 1)
    torch.testing.assert_close(u_student, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["grid", "polynomial"])
def test_points_start_at_their_teacher(mode: str) -> None:
    x, sigma, labels = inputs()
    u_teacher = BACKBONE.predict(tiny_module(), x, sigma, labels)
    family = DX(num_points=4, segment_size=0.5, shift=2.0, mode=mode)
    student = Student.from_teacher(tiny_module(), backbone=BACKBONE, family=family, generator=torch.Generator())
    u_student = student.policy(x, sigma, labels).velocity(x, sigma)
    torch.testing.assert_close(u_student, u_teacher, rtol=1e-5, atol=1e-6)


def test_two_students_of_one_seed_are_equal_and_of_two_are_not() -> None:
    students = [
        Student.from_teacher(
            tiny_module(), backbone=BACKBONE, family=gmflow(), generator=torch.Generator().manual_seed(seed)
        )
        for seed in (0, 0, 1)
    ]
    biases = [student.head.means.bias for student in students]
    assert torch.equal(biases[0], biases[1])
    assert not torch.equal(biases[0], biases[2])


def test_policy_is_made_by_the_network_or_what_wraps_it() -> None:
    x, sigma, labels = inputs()
    student = Student(tiny_module(), backbone=BACKBONE, family=gmflow())
    randomise(student)
    wrapped = torch.nn.parallel.DataParallel(student)
    ours = student.policy(x, sigma, labels).velocity(x, sigma)
    assert torch.equal(make_policy(wrapped, student.family, x, sigma, labels).velocity(x, sigma), ours)


def test_gradients_reach_head_and_body_but_not_the_embedding_through_the_log_std() -> None:
    x, sigma, labels = inputs()
    student = Student(tiny_module(), backbone=BACKBONE, family=gmflow())
    randomise(student)
    _, logstds = student(x, sigma, labels)
    logstds.sum().backward()
    reached = {name for name, p in student.module.named_parameters() if p.grad is not None}
    assert reached == {f"proj_out_2.logstds.{i}.{part}" for i in (1, 3) for part in ("weight", "bias")}

    student.zero_grad(set_to_none=True)
    student.policy(x, sigma, labels).velocity(x, sigma).sum().backward()
    reached = {name for name, p in student.module.named_parameters() if p.grad is not None}
    assert "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight" in reached
    assert "proj_out_2.means.weight" in reached


def test_student_of_a_diffusion_teacher_starts_with_its_noise_prediction() -> None:
    """In the place of its velocity, which the noise determines but 157 times larger at the last noise level."""
    from piflow_cli.teachers.dit.vp import VariancePreserving

    backbone = DiTBackbone(4, 2, 1.0, diffusion=VariancePreserving.from_config({}))
    x, sigma, labels = inputs()
    epsilon = backbone.predict(tiny_module(out_channels=8), x, sigma, labels)[:, :4]
    student = Student.from_teacher(
        tiny_module(out_channels=8), backbone=backbone, family=gmflow(bias_noise=0.0), generator=torch.Generator()
    )
    output = student.policy(x, sigma, labels).velocity(x, sigma)
    torch.testing.assert_close(output, epsilon, rtol=1e-5, atol=1e-5)


def test_real_size_student_has_the_published_shapes_and_parameters() -> None:
    teacher = sum(p.numel() for p in build(DIT_XL_2, device="meta").parameters())
    student = Student(build(DIT_XL_2, device="meta"), backbone=BACKBONE, family=GMFlow(num_components=32))
    shapes = {name: list(p.shape) for name, p in student.head.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "means.weight": [512, 1152],
        "logweights.weight": [128, 1152],
        "logstds.1.weight": [1024, 1152],
        "logstds.3.weight": [1, 1024],
    }
    d, k, c, positions = 1152, 32, 4, 4
    old = (d + 1) * c * positions
    new = (d + 1) * k * c * positions + (d + 1) * k * positions + (d + 1) * 1024 + (1024 + 1)
    assert sum(p.numel() for p in student.parameters()) == teacher - old + new == 676_717_441
    points = Student(
        build(DIT_XL_2, device="meta"), backbone=BACKBONE, family=DX(num_points=10, segment_size=1.0, shift=1.0)
    )
    assert list(points.head.points.weight.shape) == [160, 1152]
