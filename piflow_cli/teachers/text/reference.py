"""The base's own diffusers pipeline at work, from noise and embeddings that are given.

Shapes: B batch, C latent channels, H, W latent size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.interfaces import BaseStep, BaseWalk
from piflow_cli.errors import NoWalkError
from piflow_cli.teachers.recording import recorded_calls, recorded_steps
from piflow_cli.teachers.schedules import as_euler

if TYPE_CHECKING:
    from piflow_cli.teachers.text.teacher import TextTeacher


@torch.no_grad()
def base_walk(
    teacher: TextTeacher,
    condition: TextCondition,
    *,
    size_px: tuple[int, ...],
    seed: int,
    num_steps: int,
    scale: float,
    pictures: Sequence[Any] = (),
) -> BaseWalk:
    """The walk of the base's own pipeline; arguments as `TeacherFamily.base_walk`.

    Raises:
        NoWalkError: its scheduler does not go by Euler steps of a velocity.
    """
    space, pipeline, backbone = teacher.space, teacher.space.pipeline, teacher.space.backbone
    shape = space.latent_shape_of(*size_px)
    noise = torch.randn((len(condition), *shape), generator=torch.Generator().manual_seed(seed)).to(space.device)
    arguments = space.base_arguments(condition) | space.base_guidance(scale) | dict(space.walk_arguments)
    arguments |= space.picture_arguments(pictures) if pictures else {}
    if scale != 1 and not space.embedded_guidance:
        negative = space.base_arguments(condition.against(space.null_condition, range(len(condition))))
        arguments |= {f"negative_{name}": value for name, value in negative.items()}
    arguments |= space.base_size(*size_px)
    with (
        _euler_steps(pipeline) as scheduler,
        recorded_calls(teacher.module) as calls,
        recorded_steps(scheduler) as steps,
    ):
        pictures = pipeline(
            latents=backbone.to_call(noise).to(condition.embeds.dtype),
            num_inference_steps=num_steps,
            output_type="pt",
            return_dict=False,
            **arguments,
        )[0]
    sigmas, side = scheduler.sigmas.tolist(), shape[-2:]
    return BaseWalk(
        steps=tuple(
            BaseStep(sigma, backbone.from_base(step.sample, *side).float(), backbone.from_base(step.output, *side))
            for sigma, step in zip(sigmas, steps, strict=False)
        ),
        x_0=backbone.from_base(steps[-1].next_sample, *side).float(),
        pictures=space.from_base_pictures(pictures),
        calls=tuple(calls),
        scale=scale,
    )


@contextmanager
def _euler_steps(pipeline: Any) -> Iterator[Any]:
    """Within the context the pipeline goes by Euler steps: by its own scheduler, or by one on the same time grid.

    Raises:
        NoWalkError: its own is neither Euler's nor on a grid that a shift makes.
    """
    own, euler = pipeline.scheduler, as_euler(pipeline.scheduler)
    if euler is None:
        raise NoWalkError(f"its scheduler, {type(own).__name__}, goes by no Euler steps of a velocity")
    pipeline.scheduler = euler
    try:
        yield euler
    finally:
        pipeline.scheduler = own


def beside(walks: Sequence[BaseWalk], *, calls: Sequence[Mapping[str, Any]] | None = None) -> BaseWalk:
    """Walks of one prompt each, as the pipeline would go them in one batch: shorter prompts are padded and masked.

    Args:
        walks: of the prompts.
        calls: what the network was called with; None is what it was for all prompts at once.
    """
    if calls is None:
        calls = [_call_beside(parts) for parts in zip(*(walk.calls for walk in walks), strict=True)]
    steps = [
        BaseStep(parts[0].sigma, torch.cat([part.x for part in parts]), torch.cat([part.u for part in parts]))
        for parts in zip(*(walk.steps for walk in walks), strict=True)
    ]
    return BaseWalk(
        steps=tuple(steps),
        x_0=torch.cat([walk.x_0 for walk in walks]),
        pictures=torch.cat([walk.pictures for walk in walks]),
        calls=tuple(calls),
        scale=walks[0].scale,
    )


def _call_beside(calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Arguments of calls for one prompt each, as of one call."""
    joined = {name: _value_beside([call[name] for call in calls]) for name in calls[0]}
    prompts = [call["encoder_hidden_states"] for call in calls]  # each (1, T, D)
    lengths = torch.tensor([item.shape[1] for item in prompts], device=prompts[0].device)
    if len(lengths.unique()) > 1:
        places = torch.arange(int(lengths.max()), device=lengths.device)
        joined["encoder_hidden_states_mask"] = places < lengths[:, None]
    return joined


def _value_beside(values: Sequence[Any]) -> Any:
    if isinstance(values[0], torch.Tensor) and len({value.shape for value in values}) == 1:
        return torch.cat(list(values))
    if isinstance(values[0], torch.Tensor):
        return torch.nn.utils.rnn.pad_sequence([row for value in values for row in value], batch_first=True)
    return [row for value in values for row in value] if isinstance(values[0], list) else values[0]
