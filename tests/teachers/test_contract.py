"""What every registered teacher family keeps to; a newcomer adds a small one of its kind to tiny_models.TEACHERS."""

import json
from pathlib import Path

import pytest
import torch
from tiny_models import POLICIES, TEACHERS, type_of
from torch import Tensor

from piflow_cli import registry
from piflow_cli.core.interfaces import Teacher, TeacherFamily
from piflow_cli.core.student import Student
from piflow_cli.engine.check.check import check_teacher
from piflow_cli.errors import ModelError

pytestmark = pytest.mark.parametrize("family", dict.fromkeys([*registry.names("teacher"), *TEACHERS]))


@pytest.fixture
def settings(family: str, tmp_path: Path) -> TeacherFamily:
    assert family in TEACHERS, f"add a small {family} teacher to tiny_models.TEACHERS"
    return TEACHERS[family](tmp_path / "teacher")


@pytest.fixture
def teacher(settings: TeacherFamily) -> Teacher:
    return settings.load()


def draw(teacher: Teacher, size: int = 2) -> tuple[Tensor, Tensor, object]:
    x = torch.randn((size, *teacher.space.latent_shape), generator=torch.Generator().manual_seed(0))
    return x, torch.linspace(0.3, 0.9, size), teacher.space.preview_conditions(size)


def test_settings_are_registered_under_their_type_and_survive_json(family: str, settings: TeacherFamily) -> None:
    cls = registry.resolve("teacher", type_of(family))
    assert settings.type == type_of(family)
    assert cls.model_validate_json(settings.model_dump_json()) == settings
    assert cls.model_config["frozen"]
    assert cls.model_config["extra"] == "forbid"


def test_velocity_is_finite_float32_deterministic_and_frozen(teacher: Teacher) -> None:
    x, sigma, condition = draw(teacher)
    u = teacher.velocity(x, sigma, condition)
    assert u.shape == x.shape
    assert u.dtype == torch.float32
    assert torch.isfinite(u).all()
    assert not u.requires_grad
    assert torch.equal(u, teacher.velocity(x, sigma, condition))
    assert not any(p.requires_grad for p in teacher.module.parameters())
    assert not teacher.module.training


def test_samples_of_a_batch_do_not_touch_each_other(teacher: Teacher) -> None:
    x, sigma, condition = draw(teacher)
    u = teacher.velocity(x, sigma, condition)
    other = torch.cat([x[:1], x[1:] + 1])
    torch.testing.assert_close(teacher.velocity(other, sigma, condition)[0], u[0], rtol=1e-4, atol=1e-5)


def test_description_needs_no_weights_and_fits_them(settings: TeacherFamily, teacher: Teacher) -> None:
    settings.check_source()
    module, backbone = settings.describe()
    assert backbone == teacher.backbone
    assert all(p.is_meta for p in module.parameters())
    shapes = [{name: p.shape for name, p in m.named_parameters()} for m in (module, teacher.module)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("policy", registry.names("policy"))
def test_new_student_starts_as_its_teacher_and_learns(teacher: Teacher, policy: str) -> None:
    settings = teacher.settings.model_copy(update={"guidance_scale": 1.0})
    x, _, condition = draw(teacher)
    sigma = torch.ones(len(x))
    u_teacher = settings.load().velocity(x, sigma, condition)
    student = Student.from_teacher(
        settings.load().module,
        backbone=teacher.backbone,
        family=POLICIES[policy],
        generator=torch.Generator().manual_seed(0),
    ).requires_grad_(True)
    u_student = student.policy(x, sigma, condition).velocity(x, sigma)
    torch.testing.assert_close(u_student, u_teacher, rtol=1e-4, atol=1e-5)
    u_student.square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in student.head.parameters())


@pytest.mark.parametrize("policy", registry.names("policy"))
def test_student_is_rebuilt_from_its_description_alone(teacher: Teacher, policy: str) -> None:
    network = json.loads(json.dumps(teacher.network))
    assert network == teacher.network
    students = []
    for module, backbone in ((teacher.module, teacher.backbone), teacher.settings.rebuild(network, folder=None)[:2]):
        students.append(Student(module, backbone=backbone, family=POLICIES[policy]))
    trained, rebuilt = students
    shapes = [{name: p.shape for name, p in s.module.named_parameters()} for s in students]
    assert shapes[0] == shapes[1]
    for parameter in trained.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    rebuilt.module.load_state_dict(dict(trained.module.named_parameters()), strict=False, assign=True)
    x, sigma, condition = draw(teacher)
    outputs = [student.eval()(x, sigma, condition)[0] for student in students]
    assert torch.equal(*outputs)


def test_space_encodes_prompts_and_decodes_latents(teacher: Teacher) -> None:
    x, _, condition = draw(teacher)
    assert teacher.space.conditions(condition) is not None
    assert teacher.space.preview_conditions(3) is not None
    pictures = teacher.space.decode(x)
    assert len(pictures) == len(x)
    assert pictures.shape[1] in (1, 3)
    assert 0 <= pictures.min() <= pictures.max() <= 1


def test_nothing_is_wrong_with_it(settings: TeacherFamily) -> None:
    result = check_teacher(settings)
    assert result.failures == []
    assert {"projection", "time", "velocity", "walk", "student (gmflow)", "card"} <= {
        finding.name for finding in result.findings if finding.passed
    }


def test_a_missing_source_is_a_model_error(settings: TeacherFamily) -> None:
    missing = settings.model_copy(update={"source": "./nowhere/at-all"})
    with pytest.raises(ModelError, match="nowhere/at-all"):
        missing.check_source()
    with pytest.raises(ModelError, match="nowhere/at-all"):
        missing.load()
