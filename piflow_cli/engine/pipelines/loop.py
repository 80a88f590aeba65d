"""The sampling loop as the diffusers pipelines run it: with a progress bar, callbacks and interruption.

Shapes: B batch, C latent channels, S spatial dims.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from piflow_cli.core.interfaces import Condition, Policy
from piflow_cli.core.sampling import sample_policies
from piflow_cli.core.schedule import FlowMapStep
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.pipelines.interfaces import RunsLoop

TIMESTEP_SCALE = 1000
"""Callbacks get 1000 sigma, as flow pipelines of diffusers give it."""

Generators = torch.Generator | list[torch.Generator] | None
"""One for the batch, one a sample, or the global one."""
OnStepEnd = Callable[[int, Tensor, Tensor, Condition], tuple[Tensor, Condition]]
"""(index of the evaluation, timestep (), latents, condition) -> latents and condition to go on with."""


@torch.no_grad()
def denoise(
    pipeline: RunsLoop,
    noise: Tensor,
    condition: Condition,
    *,
    settings: SamplingSettings,
    policy_at: Callable[[Tensor, Tensor, Condition], Policy],
    generator: Generators = None,
    on_step_end: OnStepEnd | None = None,
) -> Tensor:
    """Return latents x_0, (B, C, *S), by `sample_policies`, with what diffusers' users may do to the loop.

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

    pipeline._num_timesteps = settings.nfe
    with pipeline.progress_bar(total=settings.nfe) as progress:

        def begin_step(_i: int, step: FlowMapStep) -> bool:
            if pipeline.interrupt:
                return False
            pipeline._current_timestep = noise.new_tensor(step.sigma_src * TIMESTEP_SCALE)
            return True

        def end_step(i: int, x: Tensor, condition: Condition) -> tuple[Tensor, Condition]:
            if on_step_end is not None:
                x, condition = on_step_end(i, pipeline._current_timestep, x, condition)
            progress.update()
            return x, condition

        x = sample_policies(
            policy_at,
            noise,
            condition,
            settings=settings,
            fresh_noise=lambda x: randn_tensor(x.shape, generator, x.device, x.dtype),
            begin_step=begin_step,
            end_step=end_step,
        )
    pipeline._current_timestep = None
    return x
