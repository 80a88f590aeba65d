"""Sampling loops: whole runs against the published ones, cost, temperature, re-noising, and Euler's order."""

import math
from itertools import pairwise

import parity
import pytest
import torch
from published import published_student
from tiny_models import gmflow, randomise, tiny_module
from torch import Tensor

from piflow_cli.core.flow import randn_like_seeded
from piflow_cli.core.sampling import Stopwatch, sample_euler, sample_student
from piflow_cli.core.schedule import Shift, flow_map_steps
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.core.student import Student
from piflow_cli.errors import PolicyError
from piflow_cli.policies.dx import DX
from piflow_cli.policies.gmflow.family import GMFlow
from piflow_cli.teachers.dit.backbone import DiTBackbone

NETS = {"gmdit": "gmdit_v2", "dxdit": "dxdit"}
RUNS = [(name, run) for name in NETS for run in parity.load(f"class_sampling/{name}")[1]["runs"]["v0_1_2"]]


def run_student(name: str, run: dict) -> Student:
    """The student of a run, with the eps that the published sampler passes to its policy."""
    if name == "gmdit":
        family = GMFlow(num_components=4, logstd_inner_dim=12, eps=1e-4)
    else:
        family = DX(num_points=5, eps=1e-4, **run["policy_kwargs"])
    return published_student(NETS[name], family, timestep_scale=run["num_timesteps"])


def settings_of(run: dict) -> SamplingSettings:
    return SamplingSettings(
        nfe=run["nfe"],
        shift=run["shift"],
        final_step_scale=run["final_step_size_scale"],
        temperature=run["temperature"],
        total_substeps=128,
    )


@pytest.mark.parametrize(("name", "run"), RUNS, ids=[f"{name}-{run['key']}" for name, run in RUNS])
def test_class_sampling_equals_the_published_runs(name: str, run: dict) -> None:
    """Tolerance: atol 5e-6 is ten roundings of float32 at the size of the latents, over 1 to 4 networks, 128 substeps.

    The sums are the same on paper but are added in another order. That this is rounding and nothing else shows in the
    next test: moving the noise by one rounding moves the samples about as far.
    """
    tensors, _ = parity.load(f"class_sampling/{name}")
    student = run_student(name, run)
    x_0 = sample_student(
        student, student.family, tensors["in/noise"], tensors["in/class_labels"], settings=settings_of(run)
    )
    parity.assert_close(x_0, parity.out(tensors, run["key"]), atol=5e-6)


@pytest.mark.parametrize("name", NETS)
def test_class_sampling_is_as_well_conditioned_as_its_tolerance_says(name: str) -> None:
    tensors, settings = parity.load(f"class_sampling/{name}")
    run = settings["runs"]["v0_1_2"][2]
    student = run_student(name, run)
    noise = tensors["in/noise"]
    moved = noise * (1 + 2**-23 * torch.randn(noise.shape, generator=torch.Generator().manual_seed(0)).sign())
    results = [
        sample_student(student, student.family, x, tensors["in/class_labels"], settings=settings_of(run))
        for x in (noise, moved)
    ]
    assert 1e-7 < (results[0] - results[1]).abs().max() < 5e-6


class CountingStudent(Student):
    """A student that remembers the noise levels it was evaluated at."""

    sigmas: list[float]

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor) -> tuple[Tensor, Tensor | None]:
        self.sigmas.append(float(sigma[0]))
        return super().forward(x, sigma, condition)


def tiny_student(family: GMFlow | DX | None = None) -> CountingStudent:
    backbone = DiTBackbone(latent_channels=4, patch_size=2, timestep_scale=1000.0)
    student = CountingStudent(tiny_module(), backbone=backbone, family=family or gmflow())
    student.sigmas = []
    return randomise(student).eval()


def inputs(size: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn((size, 4, 8, 8), generator=torch.Generator().manual_seed(0)), torch.arange(size)


def test_a_sample_costs_its_nfe_at_the_segments_sources() -> None:
    noise, labels = inputs()
    student = tiny_student()
    settings = SamplingSettings(nfe=4, shift=3.2, final_step_scale=0.5, total_substeps=32)
    watch, seen = Stopwatch(), []
    x_0 = sample_student(
        student,
        student.family,
        noise,
        labels,
        settings=settings,
        stopwatch=watch,
        on_step=lambda done, x: seen.append((done, x)),
    )
    assert student.sigmas == pytest.approx([1.0, 0.88889, 0.70588, 0.34783], abs=1e-5)
    assert [done for done, _ in seen] == [1, 2, 3, 4]
    assert torch.equal(seen[-1][1], x_0)
    assert watch.network_s > 0
    assert watch.policy_s > 0
    assert not x_0.requires_grad


def test_temperature_sharpens_every_step_but_the_last() -> None:
    noise, labels = inputs()
    student = tiny_student()

    def walk(nfe: int, temperature: float | str) -> Tensor:
        settings = SamplingSettings(nfe=nfe, temperature=temperature, total_substeps=16)
        return sample_student(student, student.family, noise, labels, settings=settings)

    assert torch.equal(walk(1, 0.0), walk(1, 1.0))
    assert not torch.allclose(walk(2, 0.1), walk(2, 1.0))
    assert torch.equal(walk(2, "auto"), walk(2, 0.1))
    assert torch.equal(walk(4, "auto"), walk(4, 0.3))
    assert SamplingSettings(nfe=16, temperature="auto").resolved_temperature() == 1.0


def test_samples_do_not_depend_on_their_batch() -> None:
    noise, labels = inputs(4)
    student = tiny_student()
    settings = SamplingSettings(nfe=2, total_substeps=16)
    whole = sample_student(student, student.family, noise, labels, settings=settings)
    halves = [
        sample_student(student, student.family, noise[i : i + 2], labels[i : i + 2], settings=settings) for i in (0, 2)
    ]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=1e-4, atol=1e-5)


def test_noise_between_segments_is_seeded_and_asked_for() -> None:
    noise, labels = inputs()
    student = tiny_student()

    def walk(h: float, seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        settings = SamplingSettings(nfe=3, h=h, total_substeps=16)
        return sample_student(student, student.family, noise, labels, settings=settings, generator=generator)

    assert torch.equal(walk(0.0, None), walk(0.0, 1))
    assert torch.equal(walk(1.0, 1), walk(1.0, 1))
    assert not torch.allclose(walk(1.0, 1), walk(1.0, 2))
    assert not torch.allclose(walk(math.inf, 1), walk(1.0, 1))
    with pytest.raises(ValueError, match="needs a generator"):
        walk(1.0, None)


def test_full_renoising_is_the_forward_process_of_the_estimate() -> None:
    """At h = inf each segment ends at x_0 and fresh noise is added: two such steps, written out."""
    noise, labels = inputs()
    student = tiny_student()
    settings = SamplingSettings(nfe=2, h=math.inf, total_substeps=16)
    x_0 = sample_student(
        student, student.family, noise, labels, settings=settings, generator=torch.Generator().manual_seed(5)
    )
    fresh = randn_like_seeded(tuple(noise.shape), torch.Generator().manual_seed(5), "cpu")
    shift, x = Shift(1.0), noise
    one, zero = torch.ones(2), torch.zeros(2)
    for tau, sigma_to in ((1.0, 0.5), (0.5, 0.0)):
        policy = student.policy(x, tau * one, labels)
        x = policy.rollout(x, tau * one, zero, shift=shift, total_substeps=16).detach()
        x = (1 - sigma_to) * x + sigma_to * fresh
    torch.testing.assert_close(x_0, x, rtol=1e-5, atol=1e-5)
    assert [step.sigma_dst for step in flow_map_steps(settings.segments, shift, h=math.inf)] == [0.0, 0.0]


def test_points_student_refuses_segments_longer_than_it_was_trained_on() -> None:
    noise, labels = inputs()
    student = tiny_student(DX(num_points=3, segment_size=0.5, shift=1.0))
    sample_student(student, student.family, noise, labels, settings=SamplingSettings(nfe=2))
    student.sigmas.clear()
    for settings, message in (
        (SamplingSettings(nfe=1), "trained on segments of 0.5"),
        (SamplingSettings(nfe=2, shift=3.0), "trained with shift 1.0"),
    ):
        with pytest.raises(PolicyError, match=message):
            sample_student(student, student.family, noise, labels, settings=settings)
    assert student.sigmas == []  # refused before the network ran


def gaussian_velocity(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact velocity for x_0 ~ N(0.7, 0.3^2 I); from noise n its flow ends at 0.7 + 0.3 n."""
    sigma = sigma.view(-1, 1)
    centred = (x - (1 - sigma) * 0.7) / ((1 - sigma).square() * 0.09 + sigma.square())
    return sigma * centred - (0.7 + (1 - sigma) * 0.09 * centred)


@pytest.mark.parametrize("m", [1.0, 3.2])
def test_euler_is_of_first_order(m: float) -> None:
    noise = torch.randn((16, 4), generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (64, 128, 256):
        x_0 = sample_euler(gaussian_velocity, noise, num_steps=steps, shift=Shift(m))
        errors.append(float((x_0 - (0.7 + 0.3 * noise)).abs().max()))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([1.0, 1.0], abs=0.1)


def test_euler_calls_the_field_once_a_step_at_the_shifted_grid() -> None:
    sigmas, seen = [], []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        sigmas.append(float(sigma[0]))
        return torch.zeros_like(x)

    noise = torch.randn(2, 4)
    x_0 = sample_euler(velocity, noise, num_steps=4, shift=Shift(3.0), on_step=lambda *step: seen.append(step[0]))
    assert torch.equal(x_0, noise)
    assert sigmas == pytest.approx([1.0, 0.9, 0.75, 0.5])
    assert seen == [1, 2, 3, 4]


def test_euler_over_a_part_of_the_way_converges_to_the_solution() -> None:
    x = torch.full((2, 1, 2, 2), 3.0)
    end = sample_euler(lambda x, _: x, x, num_steps=2000, shift=Shift(2.0), tau=(1.0, 0.25))
    assert end == pytest.approx(3.0 * math.exp(Shift(2.0).sigma(0.25) - 1), rel=1e-3)
