"""Guidance of policies: of velocities, so that scale 1 is the policy and the rollout is Euler's on what they add up to.

Shapes: B batch, C latent channels, H, W latent size.
"""

from dataclasses import dataclass, replace
from typing import Self

import pytest
import torch
from torch import Tensor

from piflow_cli.core.flow import match_dims
from piflow_cli.core.guidance import GuidedPolicy
from piflow_cli.core.interfaces import Policy
from piflow_cli.core.rollout import euler_rollout
from piflow_cli.core.schedule import Shift

SHIFT = Shift(3.2)


@dataclass(frozen=True)
class Curved:
    """u = (x - x_0) / sigma with x_0 = target + gain x, and what was done to it."""

    target: Tensor
    gain: float
    temperature: float = 1.0
    noise: float = 0.0
    exact_rollout = False

    @property
    def depends_on_x(self) -> bool:
        return self.gain != 0

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        return (x * (1 - self.gain) - self.target) / match_dims(sigma, x).clamp(min=1e-4)

    def rollout(self, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int) -> Tensor:
        return euler_rollout(self, x, tau_from, tau_to, shift=shift, total_substeps=total_substeps)

    def detach(self) -> Self:
        return replace(self, target=self.target.detach())

    def perturb(self, p: float, *, generator: torch.Generator | None = None) -> Self:
        return replace(self, noise=p)

    def with_temperature(self, temperature: float) -> Self:
        return replace(self, temperature=temperature)


def case(*, scale: float, gains: tuple[float, float] = (0.3, -0.2)) -> tuple[GuidedPolicy, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, *targets = (torch.randn((2, 3, 4, 4), generator=generator) for _ in range(3))
    return GuidedPolicy(Curved(targets[0], gains[0]), Curved(targets[1], gains[1]), scale), x


def test_it_is_a_policy() -> None:
    guided, _ = case(scale=2.0)
    assert isinstance(guided, Policy)
    assert guided.depends_on_x
    assert not case(scale=2.0, gains=(0.0, 0.0))[0].depends_on_x


def test_scale_one_is_the_plain_policy() -> None:
    guided, x = case(scale=1.0)
    tau_from, tau_to = torch.tensor([1.0, 0.8]), torch.tensor([0.5, 0.1])
    assert torch.equal(guided.velocity(x, SHIFT.sigma(tau_from)), guided.cond.velocity(x, SHIFT.sigma(tau_from)))
    options = {"shift": SHIFT, "total_substeps": 64}
    plain = guided.cond.rollout(x, tau_from, tau_to, **options)
    assert torch.equal(guided.rollout(x, tau_from, tau_to, **options), plain)


def test_velocity_goes_beyond_the_condition() -> None:
    guided, x = case(scale=3.0)
    sigma = torch.tensor([0.9, 0.4])
    u_c, u_n = guided.cond.velocity(x, sigma), guided.uncond.velocity(x, sigma)
    torch.testing.assert_close(guided.velocity(x, sigma), u_n + 3 * (u_c - u_n))


def test_rollout_is_euler_on_its_velocity() -> None:
    guided, x = case(scale=2.5)
    start, end, n = 1.0, 0.25, 96
    tau_from, tau_to = torch.full((2,), start), torch.full((2,), end)
    ours = guided.rollout(x, tau_from, tau_to, shift=SHIFT, total_substeps=128)
    taus = torch.linspace(start, end, n + 1, dtype=torch.float64)
    for sigma, sigma_next in zip(SHIFT.sigma(taus[:-1]), SHIFT.sigma(taus[1:]), strict=True):
        x = x + guided.velocity(x, sigma.float().expand(2)) * (sigma_next - sigma).float()
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["detach", "perturb", "with_temperature"])
def test_both_policies_are_changed_alike(method: str) -> None:
    guided, _ = case(scale=2.0)
    guided = replace(guided, cond=replace(guided.cond, target=guided.cond.target.requires_grad_()))
    changed = getattr(guided, method)(*([] if method == "detach" else [0.25]))
    assert changed.scale == 2.0
    for policy in (changed.cond, changed.uncond):
        if method == "detach":
            assert not policy.target.requires_grad
        else:
            assert (policy.noise if method == "perturb" else policy.temperature) == 0.25
