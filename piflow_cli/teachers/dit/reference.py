"""DiTPipeline of diffusers at work with a teacher's own module.

Shapes: B batch, C latent channels, H, W latent size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from piflow_cli.core.interfaces import BaseStep, BaseWalk
from piflow_cli.errors import NoWalkError
from piflow_cli.teachers.recording import SchedulerStep, recorded_calls, recorded_steps

if TYPE_CHECKING:
    from piflow_cli.teachers.dit.teacher import DiTTeacher

NULL_CLASS = 1000
"""The only one that DiTPipeline knows."""


class _Pixels(nn.Module):
    """In the place of an autoencoder, whose pictures are not asked for."""

    config = SimpleNamespace(scaling_factor=1.0)

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def decode(self, latents: Tensor) -> SimpleNamespace:
        """The latents."""
        return SimpleNamespace(sample=latents)


@torch.no_grad()
def base_walk(teacher: DiTTeacher, condition: Tensor, *, seed: int, num_steps: int, scale: float) -> BaseWalk:
    """The walk of DiTPipeline.

    DDIM's steps are Euler's of this project: with x_0 and noise held over a step both lead to
    (1 - sigma') x_0 + sigma' noise.

    Raises:
        NoWalkError: nothing says how the network was sampled, or guidance where DiTPipeline knows no null class.
    """
    from diffusers import DiTPipeline

    if teacher.network["scheduler"] is None:
        raise NoWalkError("a weight file names no scheduler, so that there is no pipeline of it")
    if scale != 1 and teacher.space.null_class != NULL_CLASS:
        raise NoWalkError(f"DiTPipeline guides networks of {NULL_CLASS} classes alone")
    scheduler = _scheduler(teacher)
    pipeline = DiTPipeline(teacher.module, _Pixels(teacher.space.device), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    count, device = len(condition), teacher.space.device
    with (
        _saying_its_output(teacher.module),
        recorded_calls(teacher.module) as calls,
        recorded_steps(scheduler) as steps,
    ):
        pipeline(
            condition.tolist(),
            guidance_scale=scale,
            generator=torch.Generator(device).manual_seed(seed),
            num_inference_steps=num_steps,
            output_type="pt",
        )
    walked = [
        _in_our_terms(teacher, step, sigma, count)
        for step, sigma in zip(steps, _sigmas(teacher, scheduler), strict=True)
    ]
    x_0 = steps[-1].next_sample[:count].float()
    return BaseWalk(steps=tuple(walked), x_0=x_0, pictures=None, calls=tuple(calls), scale=scale)


@contextmanager
def _saying_its_output(module: nn.Module) -> Iterator[None]:
    """Within the context the module's config says its output, which DiTPipeline counts by."""
    said = module.config.out_channels
    module.register_to_config(out_channels=said or module.config.in_channels)
    try:
        yield
    finally:
        module.register_to_config(out_channels=said)


def _scheduler(teacher: DiTTeacher) -> Any:
    """The teacher's own, which goes Euler steps of a velocity or DDIM's of a predicted noise."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    class Flow(FlowMatchEulerDiscreteScheduler):
        """With what DiTPipeline asks of its schedulers."""

        def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:  # noqa: ARG002
            """The sample."""
            return sample

    config = {key: value for key, value in teacher.network["scheduler"].items() if not key.startswith("_")}
    if teacher.backbone.diffusion is not None:
        return DDIMScheduler.from_config(config | {"clip_sample": False, "set_alpha_to_one": True})
    return Flow.from_config(config)


def _sigmas(teacher: DiTTeacher, scheduler: Any) -> list[float]:
    """Noise level of every step."""
    if teacher.backbone.diffusion is None:
        return scheduler.sigmas.tolist()[:-1]
    ratios = [((1 - abar) / abar) ** 0.5 for abar in scheduler.alphas_cumprod[scheduler.timesteps].tolist()]
    return [ratio / (1 + ratio) for ratio in ratios]


def _in_our_terms(teacher: DiTTeacher, step: SchedulerStep, sigma: float, count: int) -> BaseStep:
    """A step of the pipeline, whose guided batches hold every state twice."""
    x, output = step.sample[:count].float(), step.output[:count].float()
    if teacher.backbone.diffusion is None:
        return BaseStep(sigma, x, output)
    return BaseStep(sigma, x * ((1 - sigma) ** 2 + sigma**2) ** 0.5, None)
