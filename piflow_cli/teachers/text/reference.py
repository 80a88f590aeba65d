"""The base's own diffusers pipeline at work, from noise and embeddings that are given.

Shapes: B batch, C latent channels, H, W latent size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import BaseStep, BaseWalk
from piflow_cli.errors import NoWalkError
from piflow_cli.teachers.recording import recorded_calls, recorded_steps

if TYPE_CHECKING:
    from piflow_cli.teachers.text.teacher import TextTeacher


@torch.no_grad()
def base_walk(
    teacher: TextTeacher,
    condition: TextCondition,
    *,
    size_px: tuple[int, int],
    seed: int,
    num_steps: int,
    scale: float,
    pictures: Sequence[Any] = (),
) -> BaseWalk:
    """The walk of the base's own pipeline; arguments as `TeacherFamily.base_walk`.

    Raises:
        NoWalkError: its scheduler does not go by Euler steps of a velocity.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    space, pipeline, backbone = teacher.space, teacher.space.pipeline, teacher.space.backbone
    if not isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler):
        raise NoWalkError(f"its scheduler, {type(pipeline.scheduler).__name__}, goes by no Euler steps of a velocity")
    shape = space.latent_shape_of(*size_px)
    noise = torch.randn((len(condition), *shape), generator=torch.Generator().manual_seed(seed)).to(space.device)
    arguments = space.base_arguments(condition) | space.base_guidance(scale) | dict(space.walk_arguments)
    arguments |= {"image": list(pictures)} if pictures else {}
    if scale != 1 and not space.embedded_guidance:
        negative = space.base_arguments(condition.against(space.null_condition, range(len(condition))))
        arguments |= {f"negative_{name}": value for name, value in negative.items()}
    with recorded_calls(teacher.module) as calls, recorded_steps(pipeline.scheduler) as steps:
        pictures = pipeline(
            latents=backbone.to_call(noise).to(condition.embeds.dtype),
            width=size_px[0],
            height=size_px[1],
            num_inference_steps=num_steps,
            output_type="pt",
            return_dict=False,
            **arguments,
        )[0]
    sigmas, side = pipeline.scheduler.sigmas.tolist(), shape[-2:]
    return BaseWalk(
        steps=tuple(
            BaseStep(sigma, backbone.from_base(step.sample, *side).float(), backbone.from_base(step.output, *side))
            for sigma, step in zip(sigmas, steps, strict=False)
        ),
        x_0=backbone.from_base(steps[-1].next_sample, *side).float(),
        pictures=pictures.float(),
        calls=tuple(calls),
        scale=scale,
    )
