"""The teacher's own solvers, all on the time grid that its students use: Euler, and diffusers' solvers for flow models.

Heun: arXiv 2206.00364; UniPC: arXiv 2302.04867; DPM-Solver++: arXiv 2211.01095.

Shapes: B batch, C latent channels, S spatial dims, n steps.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from piflow_cli.core.sampling import sample_euler
from piflow_cli.core.schedule import Shift

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x (B, C, *S), sigma (B,)) -> u (B, C, *S)."""

FIRST_SIGMA_MAX = 1 - 1e-6
"""The multistep solvers work in log(1 - sigma), so that they start this far from pure noise, as in diffusers' UniPC."""


def solve(solver: str, velocity: Velocity, noise: Tensor, *, num_steps: int, shift: Shift) -> Tensor:
    """Return latents x_0, (B, C, *S), of a velocity field started at noise.

    Args:
        solver: a name in `SOLVERS`.
        velocity: the field.
        noise: standard normal, (B, C, *S).
        num_steps: steps, uniform in raw time.
        shift: the map from raw time to sigma.
    """
    if solver == "euler":
        return sample_euler(velocity, noise, num_steps=num_steps, shift=shift)
    sigmas = shift.sigma(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64))
    scheduler = SCHEDULERS[solver](sigmas)
    scheduler.set_begin_index(0)
    x = noise.float()
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1].tolist(), strict=True):
        u = velocity(x, torch.full(x.shape[:1], sigma, dtype=x.dtype))
        x = scheduler.step(u, t, x, return_dict=False)[0]
    return x


def num_evaluations(solver: str, num_steps: int) -> int:
    """Evaluations of the velocity field: two a step for Heun, but one for its last step; one a step for the others."""
    return 2 * num_steps - 1 if solver == "heun" else num_steps


def _heun(sigmas: Tensor) -> Any:
    """Second order, two evaluations a step; the last step, into sigma = 0, is Euler's."""
    from diffusers import FlowMatchHeunDiscreteScheduler

    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(len(sigmas) - 1)
    inner = sigmas[1:-1].repeat_interleave(2)
    scheduler.sigmas = torch.cat([sigmas[:1], inner, sigmas[-1:]]).float()
    scheduler.timesteps = scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps
    return scheduler


def _unipc(sigmas: Tensor) -> Any:
    """Second order predictor and corrector over the last evaluations."""
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    scheduler.set_timesteps(sigmas=sigmas[:-1].clamp(max=FIRST_SIGMA_MAX).numpy())
    return scheduler


def _dpm_solver(sigmas: Tensor) -> Any:
    """Second order multistep."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas.clamp(max=FIRST_SIGMA_MAX).float()
    return scheduler


SCHEDULERS: dict[str, Callable[[Tensor], Any]] = {"heun": _heun, "unipc": _unipc, "dpmsolver++": _dpm_solver}
SOLVERS = ("euler", *SCHEDULERS)
