"""What limits a student: its network, or what a policy can say?

For every segment of the teacher's own trajectories it compares where the segment ends after one Euler step of the
teacher, by the student's policy, and by a static policy a sample, fitted to the teacher by the loss that students are
trained by, without a network. Where the static one is far better, the network is what more training would improve.

Shapes: B batch, C latent channels, S spatial dims.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from piflow_cli.core.imitation import ImitationSettings, imitate_segment
from piflow_cli.core.interfaces import Policy
from piflow_cli.core.sampling import sample_euler
from piflow_cli.engine.benchmark.questions import Questions
from piflow_cli.engine.benchmark.yardsticks import choose_subjects
from piflow_cli.engine.students.load import LoadedStudent

TEACHER_SUBSTEPS = 16
"""Euler steps of the teacher in a segment, against whose end the others are held."""
LEARNING_RATE = 1e-2
Velocity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SegmentLimits:
    """Squared distance from the teacher's end of a segment, over the squared length of its way there.

    Args:
        sigma_src, sigma_dst: where the segment begins and ends.
        euler: of one teacher step.
        network: of the student's policy.
        fitted: of the static policies.
    """

    sigma_src: float
    sigma_dst: float
    euler: float
    network: float
    fitted: float


def fit_policy(
    make: Callable[..., Policy],
    output: Tensor,
    extra: Tensor | None,
    velocity: Velocity,
    x_src: Tensor,
    tau: tuple[float, float],
    *,
    settings: ImitationSettings,
    iterations: int,
) -> Policy:
    """Policies fitted to the teacher, one a sample, from what a network put out (B, ...) and read beside it.

    Args:
        make: (output, extra), or (output) where the network reads nothing beside it, -> policy of the source.
        output, extra: where to begin.
        velocity: the teacher's.
        x_src: the source, (B, C, *S).
        tau: raw times of the segment's ends.
        settings: of the imitation loss.
        iterations: of Adam, at a rate that falls to 0.
    """
    leaves = [tensor.float().clone().requires_grad_() for tensor in (output, extra) if tensor is not None]
    optimizer = torch.optim.Adam(leaves, lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    generator = torch.Generator().manual_seed(0)
    tau_src = x_src.new_full(x_src.shape[:1], tau[0])
    for _ in range(iterations):
        policy = make(*leaves)
        loss = imitate_segment(
            policy, velocity, x_src, tau_src, tau_src - tau[1], settings=settings, generator=generator
        )
        optimizer.zero_grad()
        (loss * len(x_src)).backward()
        optimizer.step()
        scheduler.step()
    return make(*leaves).detach()


def find_limits(student: LoadedStudent, *, samples: int, iterations: int) -> list[SegmentLimits]:
    """Measure every segment of a student on its teacher's trajectories from seeded noise.

    Args:
        student: with an embedded teacher, or one whose prompts are known.
        samples: trajectories.
        iterations: of the fit of a static policy.
    """
    card = student.card
    sampling, family = card.sampling, card.policy
    teacher = card.teacher.load()
    subjects = choose_subjects(None, [student])
    condition = Questions.in_turn(subjects, samples).condition(teacher.space, 0, samples)
    settings = ImitationSettings(
        shift=sampling.time_shift, num_intermediates=1, window_substeps=1, total_substeps=sampling.total_substeps
    )

    @torch.no_grad()
    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return teacher.velocity(x, sigma, condition)

    shift = sampling.time_shift
    x = torch.randn((samples, *teacher.space.latent_shape), generator=torch.Generator().manual_seed(0))
    found = []
    for tau in pairwise(sampling.segments.boundaries()):
        source = x.new_full((samples,), shift.sigma(tau[0]))
        with torch.no_grad():
            output, extra = student.network(x, source, condition)

        def make(output: Tensor, extra: Tensor | None = None, x: Tensor = x, source: Tensor = source) -> Policy:
            return family.policy(output, extra, x, source)

        fitted = fit_policy(make, output, extra, velocity, x, tau, settings=settings, iterations=iterations)
        tau_src, tau_dst = (x.new_full((samples,), t) for t in tau)
        end, one_step = (
            sample_euler(velocity, x, num_steps=steps, shift=shift, tau=tau) for steps in (TEACHER_SUBSTEPS, 1)
        )
        ends = [one_step]
        for policy in (make(output, extra), fitted):
            ends.append(
                policy.rollout(x, tau_src, tau_dst, shift=shift, total_substeps=sampling.total_substeps).detach()
            )
        way = (end - x).square().sum()
        errors = [float((other - end).square().sum() / way) for other in ends]
        found.append(SegmentLimits(shift.sigma(tau[0]), shift.sigma(tau[1]), *errors))
        x = end
    return found
