"""The DiT teacher: its numbers, its guidance, and its size on paper."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import parity
import pytest
import torch
from published import DIT_XL_2
from tiny_models import save_teacher, tiny_module
from torch import Tensor, nn

from piflow_cli.core.flow import velocity_to_x0
from piflow_cli.errors import ModelError
from piflow_cli.teachers.dit.backbone import DiTBackbone
from piflow_cli.teachers.dit.config import FREQ_SHIFT, to_diffusers
from piflow_cli.teachers.dit.family import DiT
from piflow_cli.teachers.dit.loading.weights import build, load_weights
from piflow_cli.teachers.dit.teacher import DiTTeacher


def guided(teacher: DiTTeacher, **settings: object) -> DiTTeacher:
    settings = teacher.settings.model_copy(update=settings)
    return DiTTeacher(teacher.name, teacher.module, teacher.backbone, teacher.space, settings, teacher.network)


def batch(size: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((size, 4, 8, 8), generator=generator)
    return x, torch.linspace(0.2, 0.9, size), torch.arange(size) % 10


@contextmanager
def counted_rows(module: nn.Module) -> Iterator[list[int]]:
    """Sizes of the batches that the module is called with."""
    sizes: list[int] = []
    handle = module.register_forward_pre_hook(lambda _module, args: sizes.append(len(args[0])))
    yield sizes
    handle.remove()


@pytest.mark.parametrize("unit", ["unit", "thousand"])
def test_network_equals_the_published_one(unit: str) -> None:
    tensors, settings = parity.load("nets/dit_base")
    module = build({**settings["config"], FREQ_SHIFT: 0}, device="cpu").eval()
    state = {k.removeprefix("state_dict/"): v for k, v in tensors.items() if k.startswith("state_dict/")}
    load_weights(module, to_diffusers(state), source="fixture", dtype=torch.float32)
    backbone = DiTBackbone(latent_channels=4, patch_size=2, timestep_scale=1.0)
    times = tensors[f"in/timestep_{unit}"]
    output = backbone.predict(module, tensors["in/hidden_states"], times, tensors["in/class_labels"])
    parity.assert_close(output, tensors[f"out_{unit}/sample"])


def test_network_is_given_its_own_time(teacher: DiTTeacher) -> None:
    x, sigma, labels = batch()
    u = teacher.velocity(x, sigma, labels)
    direct = teacher.module(x, timestep=1000 * sigma, class_labels=labels, return_dict=False)[0]
    assert torch.equal(u, direct)
    unscaled = DiT(source=f"{teacher.name}/transformer", prediction="flow", timestep_scale=1.0).load()
    direct = teacher.module(x, timestep=sigma, class_labels=labels, return_dict=False)[0]
    assert torch.equal(unscaled.velocity(x, sigma, labels), direct)


def test_velocity_is_frozen_float32_and_without_gradient(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher")
    teacher = DiT(source=str(folder)).load(dtype=torch.bfloat16)
    x, sigma, labels = batch()
    u = teacher.velocity(x.requires_grad_(), sigma, labels)
    assert u.dtype == torch.float32
    assert not u.requires_grad
    assert not teacher.module.training
    assert not any(p.requires_grad for p in teacher.module.parameters())
    exact = DiT(source=str(folder)).load().velocity(x, sigma, labels)
    torch.testing.assert_close(u, exact, rtol=0.05, atol=0.05)


def test_guidance_uses_the_null_class_after_the_last(teacher: DiTTeacher) -> None:
    x, sigma, labels = batch()
    u_cond = teacher.velocity(x, sigma, labels)
    u_null = teacher.velocity(x, sigma, torch.full_like(labels, 10))
    assert not torch.allclose(u_cond, u_null)
    u = guided(teacher, guidance_scale=2.5).velocity(x, sigma, labels)
    torch.testing.assert_close(u, u_cond + 1.5 * (u_cond - u_null), rtol=1e-5, atol=1e-6)


def test_the_null_class_is_the_networks_and_not_counted_from_the_names(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher", labels=["zero", "one", "two"])
    teacher = DiT(source=str(folder), guidance_scale=2.5).load()
    plain = DiT(source=str(folder)).load()
    x, sigma, labels = batch()
    u_cond, u_null = (plain.velocity(x, sigma, condition) for condition in (labels, torch.full_like(labels, 10)))
    expected = u_cond + 1.5 * (u_cond - u_null)
    torch.testing.assert_close(teacher.velocity(x, sigma, labels), expected, rtol=1e-5, atol=1e-6)
    assert (teacher.space.num_classes, teacher.space.null_class) == (10, 10)
    assert teacher.space.encode_prompts(["two", "7"]).tolist() == [2, 7]


@pytest.mark.parametrize("labels", [[str(i) for i in range(11)], {"-1": "a"}, {"x": "a"}, [1, 2], {"a": 10}])
def test_names_of_classes_that_the_network_does_not_know_are_refused(labels, tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher")
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {str(i): n for i, n in enumerate(labels)} if len(labels) == 11 else labels
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="id2label"):
        DiT(source=str(folder)).load()


def test_guidance_acts_inside_its_interval_only(teacher: DiTTeacher) -> None:
    x, _, labels = batch()
    sigma = torch.tensor([0.2, 0.7, 0.71])
    u_cond = teacher.velocity(x, sigma, labels)
    u = guided(teacher, guidance_scale=3.0, guidance_interval=(0.0, 0.7)).velocity(x, sigma, labels)
    changed = (u - u_cond).abs().amax((1, 2, 3)) > 1e-4
    assert changed.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("scale", "sigma", "rows"),
    [(1.0, 0.5, [3]), (2.0, 0.9, [3]), (2.0, 0.5, [6])],
    ids=["no guidance", "outside the interval", "inside the interval"],
)
def test_guidance_doubles_the_network_only_where_it_acts(
    teacher: DiTTeacher, scale: float, sigma: float, rows: list[int]
) -> None:
    x, _, labels = batch()
    teacher = guided(teacher, guidance_scale=scale, guidance_interval=(0.0, 0.7))
    with counted_rows(teacher.module) as sizes:
        teacher.velocity(x, torch.full((3,), sigma), labels)
    assert sizes == rows


def test_orthogonal_guidance_leaves_the_part_along_x0_alone(teacher: DiTTeacher) -> None:
    x, sigma, labels = batch()
    u_cond = teacher.velocity(x, sigma, labels)
    bias = guided(teacher, guidance_scale=3.0, orthogonal=1.0).velocity(x, sigma, labels) - u_cond
    x_0 = velocity_to_x0(x, u_cond, sigma)
    assert (bias * x_0).sum((1, 2, 3)).abs().max() < 1e-3 * (bias.norm() * x_0.norm())
    assert bias.abs().max() > 1e-3


def test_diffusion_teacher_predicts_noise_and_drops_its_variance(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher", scheduler="ddim", out_channels=8)
    teacher = DiT(source=str(folder)).load()
    x, sigma, labels = batch()
    diffusion = teacher.backbone.diffusion
    z, t = diffusion.scale_input(x, sigma), diffusion.timestep(sigma)
    output = teacher.module(z, timestep=t, class_labels=labels, return_dict=False)[0]
    assert output.shape[1] == 8
    assert torch.equal(teacher.velocity(x, sigma, labels), diffusion.velocity(output[:, :4], x, sigma))


def test_projection_of_a_diffusion_teacher_is_the_noise_part(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher", scheduler="ddim", out_channels=8)
    teacher = DiT(source=str(folder)).load()
    x, sigma, labels = batch()
    whole = teacher.backbone.predict(teacher.module, x, sigma, labels)
    part = teacher.backbone.projection(teacher.module)
    teacher.backbone.replace_projection(teacher.module, part, output_channels=4)
    torch.testing.assert_close(teacher.backbone.predict(teacher.module, x, sigma, labels), whole[:, :4])


def test_rebuilding_from_a_description_gives_the_same_network(teacher: DiTTeacher) -> None:
    module, backbone, space = teacher.settings.rebuild(teacher.network, folder=None)
    assert backbone == teacher.backbone
    assert space == teacher.space
    assert {n: p.shape for n, p in module.named_parameters()} == {
        n: p.shape for n, p in teacher.module.named_parameters()
    }
    module.load_state_dict(dict(teacher.module.named_parameters()), strict=False, assign=True)
    x, sigma, labels = batch()
    torch.testing.assert_close(
        backbone.predict(module.eval(), x, sigma, labels), teacher.velocity(x, sigma, labels), rtol=0, atol=0
    )
    with pytest.raises(ModelError, match="card says nothing of config"):
        teacher.settings.rebuild({}, folder=None)


def test_gradient_reaches_the_shared_embedding_once() -> None:
    module = tiny_module()
    x, sigma, labels = batch()
    DiTBackbone(latent_channels=4, patch_size=2, timestep_scale=1000.0).predict(
        module, x, sigma, labels
    ).sum().backward()
    names = [name for name, p in module.named_parameters() if "norm1.emb." in name and p.grad is not None]
    assert names
    assert all(name.startswith("transformer_blocks.0.") for name in names)
    assert sum(".embedding_table." in name for name in names) == 1
    assert module.transformer_blocks[0].norm1.emb is module.transformer_blocks[1].norm1.emb


def test_labels_are_never_dropped_in_training_mode() -> None:
    module = tiny_module().train()
    x, sigma, labels = batch()
    backbone = DiTBackbone(latent_channels=4, patch_size=2, timestep_scale=1000.0)
    first = backbone.predict(module, x, sigma, labels)
    assert all(torch.equal(backbone.predict(module, x, sigma, labels), first) for _ in range(5))


def test_real_size_teacher_has_the_published_parameters() -> None:
    module = build(DIT_XL_2, device="meta")
    d, layers, classes, channels, patch = 1152, 28, 1000, 4, 2
    block = (d * 6 * d + 6 * d) + 4 * (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d)
    embedding = (256 * d + d) + (d * d + d) + (classes + 1) * d
    tokens = channels * patch**2 * d + d
    projections = (d * 2 * d + 2 * d) + (d * patch**2 * channels + patch**2 * channels)
    expected = layers * block + embedding + tokens + projections
    assert sum(p.numel() for p in module.parameters()) == expected == 674_816_272
    assert all(p.is_meta for p in module.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"(?s)KEY=VALUE:\n  teacher\.prediction: .*\n  teacher\.timestep_scale: .*\n  teacher\.vae: .*4 channels"),
        ({"prediction": "flow"}, r"(?s)KEY=VALUE:\n  teacher\.timestep_scale: .*\n  teacher\.vae: "),
        ({"prediction": "epsilon"}, None),
        ({"prediction": "flow", "timestep_scale": 1.0}, None),
    ],
)
def test_what_no_scheduler_says_must_be_set(tmp_path: Path, settings: dict, message: str | None) -> None:
    folder = save_teacher(tmp_path / "teacher", scheduler=None)
    if message is None:
        assert DiT(source=str(folder), **settings).load().backbone.latent_channels == 4
        return
    with pytest.raises(ModelError, match=message):
        DiT(source=str(folder), **settings).load()
