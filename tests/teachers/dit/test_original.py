"""Weight files of the original DiT code, as SiT and REPA publish them, against their equations written out here.

Shapes: B batch, N positions, D width, C latent channels, H, W latent size, P side of a patch.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import gmflow, tiny_vae
from torch import Tensor
from torch.nn import functional as F

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.core.student import Student
from piflow_cli.engine.students.load import load_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.errors import ModelError
from piflow_cli.formats.student import StoredStudent, StudentCard
from piflow_cli.teachers.dit.family import DiT

D, HEADS, P, C, SIDE, CLASSES, BLOCKS, TIMES = 32, 4, 2, 4, 8, 10, 3, 256
STEPS = 6


def table() -> Tensor:
    """Positions (1, N, D): half of the width for columns, half for rows; sines first, then cosines, of each."""
    count = D // 4
    rates = 1 / 10_000 ** (np.arange(count) / count)
    rows, columns = np.meshgrid(np.arange(SIDE // P), np.arange(SIDE // P), indexing="ij")
    halves = [np.outer(place.reshape(-1), rates) for place in (columns, rows)]
    return torch.tensor(np.concatenate([np.concatenate([np.sin(h), np.cos(h)], 1) for h in halves], 1))[None].float()


def random_weights(*, channels: int, seed: int = 0) -> dict[str, Tensor]:
    """A network's by the names of the original code, with nothing left at zero; `channels` of its output."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (D, C, P, P),
        "x_embedder.proj.bias": (D,),
        "t_embedder.mlp.0.weight": (D, TIMES),
        "t_embedder.mlp.0.bias": (D,),
        "t_embedder.mlp.2.weight": (D, D),
        "t_embedder.mlp.2.bias": (D,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, D),
        "final_layer.adaLN_modulation.1.weight": (2 * D, D),
        "final_layer.adaLN_modulation.1.bias": (2 * D,),
        "final_layer.linear.weight": (P * P * channels, D),
        "final_layer.linear.bias": (P * P * channels,),
    }
    for i in range(BLOCKS):
        for name, wide, narrow in (
            ("attn.qkv", 3 * D, D),
            ("attn.proj", D, D),
            ("mlp.fc1", 4 * D, D),
            ("mlp.fc2", D, 4 * D),
            ("adaLN_modulation.1", 6 * D, D),
        ):
            shapes |= {f"blocks.{i}.{name}.weight": (wide, narrow), f"blocks.{i}.{name}.bias": (wide,)}
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) * 0.15 for name, shape in shapes.items()}
    return weights | {"pos_embed": table()}


def network(w: dict[str, Tensor], x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """The output (B, C, H, W) of DiT (arXiv 2212.09748, section 3: adaLN-Zero) at x (B, C, H, W), times t (B,)."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def normed(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(TIMES // 2) / (TIMES // 2))
    times = torch.cat([angles.cos(), angles.sin()], dim=1)
    condition = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", times)))
    condition = F.silu(condition + w["y_embedder.embedding_table.weight"][labels])  # (B, D)
    patches = x.unfold(2, P, P).unfold(3, P, P).permute(0, 2, 3, 1, 4, 5)  # (B, H/P, W/P, C, P, P)
    h = patches.flatten(3).flatten(1, 2) @ w["x_embedder.proj.weight"].flatten(1).T  # (B, N, D)
    h = h + w["x_embedder.proj.bias"] + w["pos_embed"]
    for i in range(BLOCKS):
        block = f"blocks.{i}."
        modulation = linear(block + "adaLN_modulation.1", condition)[:, None].chunk(6, dim=-1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation
        qkv = linear(block + "attn.qkv", normed(h) * (1 + scale_1) + shift_1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in qkv.chunk(3, dim=-1))  # (B, N, heads, D/heads)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(D // HEADS)
        attended = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2)
        h = h + gate_1 * linear(block + "attn.proj", attended)
        hidden = F.gelu(linear(block + "mlp.fc1", normed(h) * (1 + scale_2) + shift_2), approximate="tanh")
        h = h + gate_2 * linear(block + "mlp.fc2", hidden)
    shift, scale = linear("final_layer.adaLN_modulation.1", condition)[:, None].chunk(2, dim=-1)
    tokens = linear("final_layer.linear", normed(h) * (1 + scale) + shift)  # (B, N, P P channels)
    side = SIDE // P
    picture = tokens.unflatten(1, (side, side)).unflatten(-1, (P, P, -1)).permute(0, 5, 1, 3, 2, 4)
    return picture.reshape(len(x), -1, SIDE, SIDE)[:, :C]  # a predicted variance aside


def sit(w: dict[str, Tensor], x: Tensor, labels: Tensor, scale: float) -> Tensor:
    """SiT's Euler walk: x_t = t data + (1 - t) noise and v = data - noise, from t = 0 to 1."""
    times = torch.linspace(0, 1, STEPS + 1)
    for t, after in pairwise(times):
        x = x + guided(lambda x, y, t=t: network(w, x, t.expand(len(x)), y), x, labels, scale) * (after - t)
    return x


def repa(w: dict[str, Tensor], x: Tensor, labels: Tensor, scale: float) -> Tensor:
    """REPA's: x_t = (1 - t) data + t noise and v = noise - data, from t = 1 to 0."""
    times = torch.linspace(1, 0, STEPS + 1)
    for t, after in pairwise(times):
        x = x + guided(lambda x, y, t=t: network(w, x, t.expand(len(x)), y), x, labels, scale) * (after - t)
    return x


def guided(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, labels: Tensor, scale: float) -> Tensor:
    with_class, without = velocity(x, labels), velocity(x, torch.full_like(labels, CLASSES))
    return without + scale * (with_class - without)


def ours(teacher: Any, x: Tensor, labels: Tensor) -> Tensor:
    """The teacher's Euler walk in this project's words."""
    for sigma, after in pairwise(torch.linspace(1, 0, STEPS + 1).tolist()):
        x = x + teacher.velocity(x, torch.full((len(x),), sigma), labels) * (after - sigma)
    return x


def teacher_of(path: Path, **settings: Any) -> DiT:
    """The settings for a file, beside which there is an autoencoder."""
    if not (vae := path.parent / "vae").exists():
        tiny_vae().save_pretrained(vae)
    usual = {"timestep_scale": 1.0, "num_attention_heads": HEADS, "vae": str(vae)}
    return DiT(source=str(path), **usual | settings)


def written(folder: Path, weights: dict[str, Tensor], *, suffix: str = ".pt") -> Path:
    path = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    else:
        torch.save(weights, path)
    return path


CASES = {"SiT": (sit, "reversed-flow", 2 * C), "REPA": (repa, "flow", C)}
"""Walk, prediction and channels of the output: SiT's files have a variance beside the velocity that nobody learnt."""


@pytest.mark.parametrize("scale", [1.0, 1.8])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", CASES)
def test_a_walk_is_the_publishers_own(tmp_path: Path, kind: str, suffix: str, scale: float) -> None:
    walk, prediction, channels = CASES[kind]
    weights = random_weights(channels=channels)
    extra = {"projectors.0.0.weight": torch.ones(3, D)} if kind == "REPA" else {}
    path = written(tmp_path, weights | extra, suffix=suffix)
    teacher = teacher_of(path, prediction=prediction, guidance_scale=scale).load()
    noise = torch.randn(3, C, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([3, 0, 9])
    expected = walk(weights, noise, labels, scale)
    torch.testing.assert_close(ours(teacher, noise, labels), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(expected, noise, atol=0.1)
    other = teacher_of(path, prediction={"flow": "reversed-flow", "reversed-flow": "flow"}[prediction]).load()
    assert not torch.allclose(ours(other, noise, labels), walk(weights, noise, labels, 1.0), atol=1e-2)


@pytest.mark.parametrize("kind", CASES)
def test_its_size_comes_from_its_positions_and_its_slices_are_the_whole(tmp_path: Path, kind: str) -> None:
    _, prediction, channels = CASES[kind]
    settings = teacher_of(written(tmp_path, random_weights(channels=channels)), prediction=prediction, sample_size=32)
    whole, (outline, files) = settings.load(), settings.outline()
    config = whole.network["config"]
    assert (config["sample_size"], config["num_layers"], config["num_embeds_ada_norm"]) == (SIDE, BLOCKS, CLASSES)
    assert whole.network == outline.network
    for name, parameter in whole.module.named_parameters():
        assert name in files
        assert files.shape(name) == tuple(parameter.shape)
        assert torch.equal(files.read(name).float(), parameter)
        rows = (slice(0, 2), *(slice(None),) * (parameter.ndim - 1))
        assert torch.equal(files.read(name, rows).float(), parameter[:2])
    with pytest.raises(ModelError, match="have no nowhere"):
        files.read("nowhere")


def test_a_student_is_a_flows_and_is_read_without_the_teacher(tmp_path: Path) -> None:
    path = written(tmp_path, random_weights(channels=2 * C))
    settings = teacher_of(path, prediction="reversed-flow")
    teacher = settings.load()
    x = torch.randn(2, C, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    labels, sigma = torch.tensor([3, 0]), torch.ones(2)
    student = Student.from_teacher(
        settings.load().module,
        backbone=teacher.backbone,
        family=gmflow(bias_noise=0.0),
        generator=torch.Generator().manual_seed(0),
    )
    u = student.policy(x, sigma, labels).velocity(x, sigma)
    torch.testing.assert_close(u, teacher.velocity(x, sigma, labels), rtol=1e-4, atol=1e-4)
    card = StudentCard(
        piflow_version="0",
        preset="tiny",
        teacher=settings,
        network=teacher.network,
        policy=student.family,
        sampling=SamplingSettings(nfe=1),
    )
    weights = {name: p.detach().clone() for name, p in student.module.named_parameters()}
    save_student(StoredStudent(card=card, weights=weights), tmp_path / "student")
    path.unlink()
    again = load_student(str(tmp_path / "student")).network
    assert torch.equal(again.policy(x, sigma, labels).velocity(x, sigma), u)


def test_what_such_files_leave_open_is_asked_for_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, random_weights(channels=C))
    with pytest.raises(ModelError, match=r"(?s)teacher.prediction: .*SiT.*\n.*teacher.timestep_scale: .*teacher.vae"):
        DiT(source=str(path), num_attention_heads=HEADS).check_source()


def test_networks_that_are_none_are_refused_by_what_they_have(tmp_path: Path) -> None:
    weights = random_weights(channels=C)
    gated = weights | {"blocks.0.mlp.w12.weight": torch.zeros(2, 2)}
    with pytest.raises(ModelError, match=r"it has gated MLPs \(blocks.0.mlp.w12.weight\).* LightningDiT"):
        teacher_of(written(tmp_path, gated), prediction="reversed-flow").load()
    learnt = weights | {"pos_embed": torch.randn_like(weights["pos_embed"])}
    with pytest.raises(ModelError, match="positions of its own"):
        teacher_of(written(tmp_path, learnt), prediction="flow").load()
    odd = weights | {"pos_embed": weights["pos_embed"][:, :15]}
    with pytest.raises(ModelError, match="of no square picture"):
        teacher_of(written(tmp_path, odd), prediction="flow").load()
    more = weights | {"blocks.0.nothing.weight": torch.zeros(2)}
    with pytest.raises(ModelError, match=r"unknown transformer_blocks\.0\.nothing\.weight"):
        teacher_of(written(tmp_path, more), prediction="flow").load()


def test_a_checkpoint_of_training_is_its_average(tmp_path: Path) -> None:
    average, last = random_weights(channels=C), random_weights(channels=C, seed=1)
    torch.save({"model": last, "ema": average, "opt": {}}, tmp_path / "checkpoint.pt")
    settings = teacher_of(tmp_path / "checkpoint.pt", prediction="flow")
    x, sigma, labels = torch.randn(2, C, SIDE, SIDE), torch.tensor([0.4, 0.9]), torch.tensor([3, 0])
    u = settings.load().velocity(x, sigma, labels)
    torch.testing.assert_close(u, network(average, x, sigma, labels), rtol=0, atol=1e-4)
    _, files = settings.outline()
    assert torch.equal(files.read("proj_out_2.bias"), average["final_layer.linear.bias"])


def test_the_published_dits_predict_noise_and_its_variance(tmp_path: Path) -> None:
    weights = random_weights(channels=2 * C)
    teacher = teacher_of(written(tmp_path, weights), prediction="epsilon", timestep_scale=None).load()
    x, sigma, labels = torch.randn(2, C, SIDE, SIDE), torch.tensor([0.4, 0.9]), torch.tensor([3, 0])
    schedule = teacher.backbone.diffusion
    assert len(schedule.abar) == 1000
    noise = network(weights, schedule.scale_input(x, sigma), schedule.timestep(sigma), labels)
    expected = schedule.velocity(noise, x, sigma)
    torch.testing.assert_close(teacher.velocity(x, sigma, labels), expected, rtol=1e-4, atol=1e-4)
