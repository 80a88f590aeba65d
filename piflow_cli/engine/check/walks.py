"""The network and its velocity against the base's own pipeline: arguments, time, sign, guidance, whole walks.

Shapes: B batch, C latent channels, S spatial dims.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from piflow_cli.core.interfaces import BaseStep
from piflow_cli.engine.check.subject import Finding, Subject, largest, right, unmeasured, wrong
from piflow_cli.teachers.recording import recorded_calls

TOLERANCE = 1e-4
"""Of latents after a walk and of velocities, in float32."""
COUNTED_FROM_0 = 0.05
"""How near to a whole step two scales differ that are counted from 0 and from 1."""
SAME_TIME = 1e-3
"""Relative difference of times that are the same: some networks have no times between whole steps."""


@torch.no_grad()
def our_calls(subject: Subject, step: BaseStep) -> Mapping[str, Any]:
    """What the backbone calls the module with at the state of a step."""
    module = subject.teacher.module
    with recorded_calls(module) as calls:
        subject.teacher.backbone.predict(module, step.x, subject.sigmas(step.sigma), subject.condition)
    return calls[0]


def check_time(subject: Subject) -> Finding:
    """Direction and scale of the time that the network gets."""
    name, walk = subject.teacher.backbone.time_argument, subject.walk(subject.sizes_px[0])
    sigmas = [step.sigma for step in walk.steps]
    theirs = [_number(call[name]) for call in walk.calls]
    ours = [_number(our_calls(subject, step)[name]) for step in walk.steps]
    law, own_law = _law(sigmas, theirs), _law(sigmas, ours)
    if all(abs(a - b) <= SAME_TIME * max(1e-3, abs(b)) for a, b in zip(ours, theirs, strict=True)):
        return right("time", f"the network gets {law}, as from the base")
    how = "is another"
    if (ours[0] - ours[-1]) * (theirs[0] - theirs[-1]) < 0:
        how = "runs the other way"
    elif all(abs(b) > 1e-6 for b in theirs):
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        if max(ratios) - min(ratios) < SAME_TIME * abs(ratios[0]):
            how = f"is {ratios[0]:.4g} times as large"
    return wrong("time", f"time {how}: the network gets {own_law}, from the base {law}")


def _number(time: Any) -> float:
    return float(time.flatten()[0]) if isinstance(time, Tensor) else float(time)


def _law(sigmas: list[float], times: list[float]) -> str:
    """Times as a function of sigma, in words."""
    slope = (times[-1] - times[0]) / (sigmas[-1] - sigmas[0])
    start = times[0] - slope * sigmas[0]
    straight = all(abs(start + slope * s - t) < 1e-3 * abs(slope) for s, t in zip(sigmas, times, strict=True))
    if not straight:
        return f"{times[0]:.4g} at sigma {sigmas[0]:.4g}, {times[-1]:.4g} at sigma {sigmas[-1]:.4g}"
    factor = "" if abs(abs(slope) - 1) < 1e-3 else f"{abs(slope):.4g} "
    if abs(start) < 1e-3 * abs(slope):
        return f"{'-' if slope < 0 else ''}{factor}sigma"
    if abs(start + slope) < 1e-3 * abs(slope) and slope < 0:
        return f"{factor}(1 - sigma)"
    return f"{slope:.4g} sigma + {start:.4g}"


def check_arguments(subject: Subject) -> Finding:
    """What else the network is called with."""
    time, seen = subject.teacher.backbone.time_argument, 0
    for size_px in subject.sizes_px:
        walk = subject.walk(size_px)
        ours, theirs = our_calls(subject, walk.steps[0]), walk.calls[0]
        different = [name for name in theirs if name != time and not _same(ours.get(name), theirs[name])]
        if different := [name for name in different if name != "return_dict"]:
            said = "; ".join(f"{name} {_difference(ours.get(name), theirs[name])}" for name in different)
            return wrong("arguments", f"at {_px(size_px)} the network is called otherwise: {said}")
        seen = len([value for value in theirs.values() if value is not None])
    return right("arguments", f"the network is called with the base's {seen} arguments")


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        theirs = _unbatched(theirs, ours.ndim)
        return ours.shape == theirs.shape and torch.allclose(ours.float(), theirs.float(), atol=1e-5, rtol=1e-5)
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(_same(a, b) for a, b in zip(ours, theirs, strict=True))
    if isinstance(ours, Tensor) or isinstance(theirs, Tensor):
        return False
    return ours is theirs or (ours or None) == (theirs or None)  # no arguments of attention are {} or None


def _unbatched(theirs: Tensor, ndim: int) -> Tensor:
    """A tensor with no more dimensions than `ndim`, as far as it is the same for all of a batch."""
    while theirs.ndim > ndim and len(theirs) and bool((theirs == theirs[:1]).all()):
        theirs = theirs[0]
    return theirs


def _difference(ours: Any, theirs: Any) -> str:
    """What tells two arguments apart."""
    if not (isinstance(ours, Tensor) and isinstance(theirs, Tensor)):
        return f"is {_kind(ours)}, the base's {_kind(theirs)}"
    theirs = _unbatched(theirs, ours.ndim)
    if ours.shape != theirs.shape:
        return f"has the shape {tuple(ours.shape)}, the base's {tuple(theirs.shape)}"
    return f"differs by up to {(ours.float() - theirs.float()).abs().max():.3g}"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return (
        f"a list of {len(value)}" if isinstance(value, list) and value and isinstance(value[0], Tensor) else repr(value)
    )


def check_velocity(subject: Subject) -> Finding:
    """Sign and scale of the velocity, without guidance."""
    steps = [step for step in subject.walk(subject.sizes_px[0]).steps if step.u is not None]
    if not steps:
        return unmeasured("velocity", "the base's sampler goes by no velocity; see walk")
    worst = 0.0
    for step in steps:
        u = subject.velocity(step.x, step.sigma)
        worst = max(worst, largest(u - step.u))
        if worst > TOLERANCE * max(1.0, largest(step.u)):
            return wrong("velocity", _relation(u, step))
    return right("velocity", f"noise - data, as the base's, to {worst:.1e}")


def _relation(u: Tensor, step: BaseStep) -> str:
    """What a wrong velocity is of the right one and of the state."""
    basis = torch.stack([step.u.flatten(), step.x.flatten()], dim=1).double()  # (B C S, 2)
    of_u, of_x = torch.linalg.lstsq(basis, u.flatten().double()[:, None]).solution.flatten().tolist()
    left = float((basis @ torch.tensor([[of_u], [of_x]], dtype=torch.float64) - u.flatten()[:, None]).norm())
    if left > 1e-2 * float(u.norm()):
        return f"differs from the base's by up to {largest(u - step.u):.3g}; see time and arguments"
    if abs(of_x) < 1e-2:
        factor = f"is {of_u:.4g} times the base's"
        return "the velocity has the other sign" if abs(of_u + 1) < 1e-2 else f"the velocity {factor}"
    if abs(of_x - 1) < 1e-2 and abs(of_u + step.sigma) < 1e-2:
        return "what comes out is x_0, not a velocity"
    if abs(of_x - 1) < 1e-2 and abs(of_u - 1 + step.sigma) < 1e-2:
        return "what comes out is the noise, not a velocity"
    return f"what comes out is {of_u:.4g} times the base's velocity + {of_x:.4g} times the state"


def check_guidance(subject: Subject) -> Finding:
    """The scale of guidance in the base's words and in ours."""
    if subject.teacher.space.embedded_guidance:
        return right("guidance", f"{subject.settings.guidance_scale:g}, embedded by the network")
    scale, step = subject.scale, subject.walk(subject.sizes_px[0], scale=subject.scale).steps[0]
    if step.u is None:
        return unmeasured("guidance", "the base's sampler goes by no velocity; see walk")
    teacher, sigma = subject.teacher.as_base(scale), subject.sigmas(step.sigma).cpu()
    ours, plain = teacher.velocity(step.x, sigma, subject.condition), subject.velocity(step.x, step.sigma)
    if largest(ours - step.u) <= TOLERANCE * scale * max(1.0, largest(step.u)):
        as_set = subject.teacher.velocity(step.x, sigma, subject.condition)
        same = subject.settings.guidance_scale == 1 or largest(ours - as_set) <= TOLERANCE
        beside = "" if same else ", which normalises it on top, and these settings do not (normalized_guidance)"
        return right("guidance", f"{scale:g} means u_n + {scale:g} (u_c - u_n) to the base too{beside}")
    bias = (ours - plain) / (scale - 1)  # u_c - u_n
    found = 1 + float(((step.u - plain) * bias).sum() / bias.square().sum())
    hint = "; does its scale count from 0?" if abs(abs(found - scale) - 1) < COUNTED_FROM_0 else ""
    return wrong("guidance", f"asked for {scale:g}, the base guides by {found:.4g}{hint}")


def check_walk(subject: Subject, *, guided: bool) -> Finding:
    """Euler's walk of the teacher against the pipeline's, at every size."""
    name = "guided walk" if guided else "walk"
    if guided and subject.teacher.space.embedded_guidance:
        return unmeasured(name, "the network embeds its scale; see walk")
    scale = subject.scale if guided else 1.0
    teacher, worst = subject.teacher.as_base(scale), 0.0
    for size_px in subject.sizes_px:
        walk = subject.walk(size_px, scale=scale)
        x, sigmas = walk.steps[0].x, [*(step.sigma for step in walk.steps), 0.0]
        for sigma, after in pairwise(sigmas):
            x = x + teacher.velocity(x, torch.full(x.shape[:1], sigma), subject.condition) * (after - sigma)
        difference = largest(x - walk.x_0)
        if not difference <= TOLERANCE:
            return wrong(
                name,
                f"at {_px(size_px)} {len(sigmas) - 1} Euler steps end {difference:.3g} beside the base's pipeline",
            )
        worst = max(worst, difference)
    sizes = " and ".join(map(_px, subject.sizes_px))
    return right(name, f"{len(sigmas) - 1} Euler steps at {sizes} end where the base's pipeline does, to {worst:.1e}")


def check_edits(subject: Subject, *, guided: bool) -> Finding:
    """What the network is called with, and the walk, with one reference picture and with two."""
    name = "guided edits" if guided else "edits"
    if guided and subject.teacher.space.embedded_guidance:
        return unmeasured(name, "the network embeds its scale; see edits")
    _, most = subject.teacher.space.num_pictures
    said = []
    for number in range(1, min(most, 2) + 1):
        about, count = subject.about(number), f"{number} reference picture{'s' * (number > 1)}"
        for found in (check_arguments(about), check_walk(about, guided=guided)):
            if not found.passed:
                return wrong(name, f"with {count} {found.said}")
        said.append(found.said)
    with_ = "one reference picture" if most == 1 else "one reference picture and with two"
    return right(name, f"with {with_} {said[-1]}")


def check_padding(subject: Subject) -> Finding:
    """A prompt in a batch against the prompt alone."""
    if not subject.takes_prompts:
        return unmeasured("padding", "classes are not padded")
    x, worst = subject.state(), 0.0
    together = subject.velocity(x, 1.0)
    for i, condition in enumerate(subject.alone()):
        worst = max(worst, largest(subject.velocity(x[i : i + 1], 1.0, condition) - together[i : i + 1]))
    if worst > TOLERANCE * max(1.0, largest(together)):
        said = f"a prompt's velocity changes by {worst:.3g} beside a longer prompt; is its mask passed on?"
        return wrong("padding", said)
    return right("padding", f"a prompt's velocity is the same alone and beside a longer one, to {worst:.1e}")


def _px(size_px: tuple[int, ...]) -> str:
    width, height, *frames = size_px
    return f"{width}x{height}" + "".join(f" of {count} frames" for count in frames)
