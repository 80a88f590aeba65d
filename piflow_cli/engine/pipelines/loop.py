"""The loop of the diffusers pipelines: `core.sampling.sample_student`, with what diffusers' users may do to it.

Shapes: B batch, C latent channels, S spatial dims.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from piflow_cli.core.interfaces import Condition, Policy
from piflow_cli.core.schedule import flow_map_steps
from piflow_cli.core.settings import SamplingSettings

if TYPE_CHECKING:
    from piflow_cli.engine.pipelines.student import StudentPipeline

TIMESTEP_SCALE = 1000
"""Callbacks get 1000 sigma, as flow pipelines of diffusers give it."""

Generators = torch.Generator | list[torch.Generator] | None
"""One for the batch, one a sample, or the global one."""
OnStepEnd = Callable[[int, Tensor, Tensor, Condition], tuple[Tensor, Condition]]
"""(index of the evaluation, timestep (), latents, condition) -> latents and condition to go on with."""


@torch.no_grad()
def denoise(
    pipeline: StudentPipeline,
    noise: Tensor,
    condition: Condition,
    *,
    settings: SamplingSettings,
    policy_at: Callable[[Tensor, Tensor, Condition], Policy],
    generator: Generators = None,
    on_step_end: OnStepEnd | None = None,
) -> Tensor:
    """Return latents x_0, (B, C, *S), from noise by `settings.nfe` policies, each rolled out over its segment.

    Temperature sharpens every policy but the last: on the final step it hurts texture (pi-Flow, appendix B.1).

    Args:
        pipeline: shows progress, and its `interrupt` leaves out the evaluations that are left.
        noise: standard normal, (B, C, *S), float32.
        condition: what the batch is conditioned on.
        settings: NFE, shift, substeps, temperature and h.
        policy_at: (x, sigma (B,), condition) -> the policy made there.
        generator: source of the noise between segments where h > 0.
        on_step_end: called after each segment; it may change the latents and the condition.
    """
    from diffusers.utils.torch_utils import randn_tensor

    x, shift, temperature = noise, settings.time_shift, settings.resolved_temperature()
    steps = flow_map_steps(settings.segments, shift, h=settings.h)
    pipeline._num_timesteps = len(steps)
    with pipeline.progress_bar(total=len(steps)) as progress:
        for i, step in enumerate(steps):
            if pipeline.interrupt:
                continue
            sigma = x.new_full((len(x),), step.sigma_src)
            timestep = x.new_tensor(step.sigma_src * TIMESTEP_SCALE)
            pipeline._current_timestep = timestep
            policy = policy_at(x, sigma, condition)
            if i < len(steps) - 1:
                policy = policy.with_temperature(temperature)
            tau_from, tau_to = (x.new_full((len(x),), tau) for tau in (step.tau_src, shift.tau(step.sigma_dst)))
            x = policy.rollout(x, tau_from, tau_to, shift=shift, total_substeps=settings.total_substeps)
            if step.m != 1:
                fresh = (
                    torch.zeros_like(x) if step.sigma_to == 0 else randn_tensor(x.shape, generator, x.device, x.dtype)
                )
                x = step.renoise(x, fresh)
            if on_step_end is not None:
                x, condition = on_step_end(i, timestep, x, condition)
            progress.update()
    pipeline._current_timestep = None
    return x
