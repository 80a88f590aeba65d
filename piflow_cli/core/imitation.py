"""Policy imitation distillation, pi-ID (pi-Flow, section 4 and algorithms 1-3): the loss of a segment, and of a walk.

A rollout of the detached policy visits states of the student's own making; at each the teacher is asked for its
velocity, and the live policy is pulled towards it with a plain L2 loss. Times are drawn and kept on the host, in
float64; student and teacher are given noise levels there, in the precision of the state.

Shapes: B batch, M intermediates, C latent channels, S spatial dims.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from piflow_cli.core.flow import euler_step, match_dims
from piflow_cli.core.interfaces import MakePolicy, Policy, TeacherVelocity
from piflow_cli.core.rollout import mean_velocity
from piflow_cli.core.schedule import Segments, Shift


@dataclass(frozen=True)
class ImitationSettings:
    """What one imitation step does.

    Args:
        shift: the map from raw time to sigma.
        num_intermediates: M, states a segment at which the teacher is asked.
        stratified: whether each of the student's M times is drawn from its own M-th of the segment, not from all of it.
            While the teacher walks no part, each state then depends on its own time alone and the expected loss is the
            same; its variance falls.
        window_substeps: length of the micro window in substeps; 0 matches instantaneous velocities.
        total_substeps: substeps of a rollout over [0, 1].
        loss_scale: factor of the loss.
    """

    shift: Shift
    num_intermediates: int = 2
    stratified: bool = False
    window_substeps: int = 0
    total_substeps: int = 128
    loss_scale: float = 1.0


@dataclass(frozen=True)
class Partition:
    """Where the student's and the teacher's parts of a segment lie, as distances in raw time from its source.

    The segment less the window is shared out: the student's gaps fill 1 - teacher_ratio of it, the teacher's the rest.

    Args:
        visits: distance of each visited state, (B, M).
        teacher_ends: distance of the end of the teacher's step that starts there, (B, M).
        window: length of the micro window, (B,).
    """

    visits: Tensor
    teacher_ends: Tensor
    window: Tensor

    @classmethod
    def of(
        cls,
        segment: Tensor,
        student_draws: Tensor,
        teacher_draws: Tensor,
        *,
        teacher_ratio: float,
        window_substeps: int,
        total_substeps: int,
    ) -> "Partition":
        """Partition segments of length (B,) by draws in [0, 1): the student's (B, M), the teacher's (B, M - 1)."""
        substep = segment / torch.round(segment * total_substeps).clamp(min=1)
        window = torch.minimum(window_substeps * substep, segment)  # (B,)
        room = (segment - window)[:, None]  # (B, 1)
        student = student_draws.sort(dim=1).values * (1 - teacher_ratio) * room  # (B, M)
        inner = teacher_draws.sort(dim=1).values * teacher_ratio * room  # (B, M - 1)
        teacher = torch.cat([torch.zeros_like(room), inner, teacher_ratio * room], dim=1)  # (B, M + 1)
        return cls(visits=student + teacher[:, :-1], teacher_ends=student + teacher[:, 1:], window=window)


@dataclass(frozen=True)
class Visit:
    """One visited state and what the teacher says there.

    Args:
        x_t: the state, (B, C, *S).
        tau: its raw time, (B,).
        tau_teacher_end: where the teacher's own step from here ends, (B,).
        tau_window_end: where the policy's velocity stops being averaged, (B,).
        u_teacher: the teacher's velocity at x_t, (B, C, *S).
    """

    x_t: Tensor
    tau: Tensor
    tau_teacher_end: Tensor
    tau_window_end: Tensor
    u_teacher: Tensor

    def after_teacher(self, shift: Shift) -> Tensor:
        """The state at tau_teacher_end by one Euler step of the teacher, (B, C, *S)."""
        return euler_step(self.x_t, self.u_teacher, shift.sigma(self.tau), shift.sigma(self.tau_teacher_end))


@torch.no_grad()
def visit_states(
    policy: Policy,
    teacher: TeacherVelocity,
    x_src: Tensor,
    tau_src: Tensor,
    partition: Partition,
    *,
    shift: Shift,
    total_substeps: int,
) -> list[Visit]:
    """Walk a segment with the detached policy, ask the teacher at M states, and let it take its own Euler steps.

    Args:
        policy: detached policy of the segment's source, with its dropout.
        teacher: the teacher's velocity.
        x_src: the source, (B, C, *S), at raw time tau_src (B,).
        partition: where to stop.
        shift, total_substeps: of the rollout.
    """
    x, tau_src = x_src, tau_src.cpu()
    tau, visits = tau_src, []
    for i in range(partition.visits.shape[1]):
        tau_a = (tau_src - partition.visits[:, i]).clamp(min=0)
        tau_b = (tau_src - partition.teacher_ends[:, i]).clamp(min=0)
        at_start = tau_a >= tau  # (B,)
        if not bool(at_start.all()):
            moved = policy.rollout(x, tau, tau_a, shift=shift, total_substeps=total_substeps)
            x = torch.where(match_dims(at_start, x), x, moved) if bool(at_start.any()) else moved
        end = (tau_b - partition.window).clamp(min=0)
        u_teacher = teacher(x, shift.sigma(tau_a).to(x.dtype))
        visit = Visit(x_t=x, tau=tau_a, tau_teacher_end=tau_b, tau_window_end=end, u_teacher=u_teacher)
        visits.append(visit)
        x, tau = visit.after_teacher(shift), tau_b
    return visits


@torch.no_grad()
def finish_segment(
    policy: Policy, visits: list[Visit], tau_dst: Tensor, *, shift: Shift, total_substeps: int
) -> Tensor:
    """Return the state at the segment's end, (B, C, *S): the walk of `visit_states` goes on with the detached policy.

    Args:
        policy: the detached policy of the walk.
        visits: its visited states, at least one.
        tau_dst: raw time of the end, (B,).
        shift, total_substeps: of the rollout.
    """
    last = visits[-1]
    x = last.after_teacher(shift)
    return policy.rollout(x, last.tau_teacher_end, tau_dst, shift=shift, total_substeps=total_substeps)


def imitation_loss(policy: Policy, visits: list[Visit], *, settings: ImitationSettings) -> tuple[Tensor, list[Tensor]]:
    """Return 0.5 scale mean((u_teacher - u_policy)^2) over the visited states, and the policy's velocities there.

    Args:
        policy: the live policy; gradients reach its parameters only.
        visits: the states of `visit_states`.
        settings: loss scale and substeps.

    Source: pi-Flow, equation 6 with the micro window of section 4.
    """
    u_policy = [
        mean_velocity(
            policy,
            visit.x_t,
            visit.tau,
            visit.tau_window_end,
            shift=settings.shift,
            total_substeps=settings.total_substeps,
        )
        for visit in visits
    ]
    error = torch.stack([(visit.u_teacher - u).square().mean() for visit, u in zip(visits, u_policy, strict=True)])
    return settings.loss_scale * 0.5 * error.mean(), u_policy


def draw_partition(
    segment: Tensor, *, settings: ImitationSettings, teacher_ratio: float, generator: torch.Generator
) -> Partition:
    """Return a random partition of segments of length (B,), on the host; the student's times are drawn first."""
    segment = segment.cpu()

    def draw(count: int) -> Tensor:
        shape = (segment.shape[0], count)
        return torch.rand(shape, generator=generator, device=generator.device).to(segment)

    count = settings.num_intermediates
    student_draws, teacher_draws = draw(count), draw(count - 1)
    if settings.stratified:
        student_draws = (torch.arange(count) + student_draws) / count
    return Partition.of(
        segment,
        student_draws,
        teacher_draws,
        teacher_ratio=teacher_ratio,
        window_substeps=settings.window_substeps,
        total_substeps=settings.total_substeps,
    )


def imitate_segment(
    policy: Policy,
    teacher: TeacherVelocity,
    x_src: Tensor,
    tau_src: Tensor,
    segment: Tensor,
    *,
    settings: ImitationSettings,
    teacher_ratio: float = 0.0,
    dropout: float = 0.0,
    generator: torch.Generator,
    on_losses: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Return the imitation loss of one segment, a scalar with gradient to the policy's network.

    Args:
        policy: the live policy of the source.
        teacher: the teacher's velocity.
        x_src: the source, (B, C, *S), at raw time tau_src (B,).
        segment: length of the segment in raw time, (B,).
        settings: what the step does.
        teacher_ratio: share of the segment that the teacher walks, in [0, 1] (trajectory mixing).
        dropout: strength of the noise on the detached policy.
        generator: source of all draws: the student's times, the teacher's, then the policy's noise.
        on_losses: called with the loss of each sample, (B,), of which the result is the mean.
    """
    partition = draw_partition(segment, settings=settings, teacher_ratio=teacher_ratio, generator=generator)
    detached = policy.detach().perturb(dropout, generator=generator)
    visits = visit_states(
        detached, teacher, x_src, tau_src, partition, shift=settings.shift, total_substeps=settings.total_substeps
    )
    loss, u_policy = imitation_loss(policy, visits, settings=settings)
    if on_losses is not None:
        on_losses(settings.loss_scale * 0.5 * _sample_errors(visits, u_policy))
    return loss


@torch.no_grad()
def _sample_errors(visits: list[Visit], u_policy: list[Tensor]) -> Tensor:
    """Mean square error of each sample over its visited states, (B,)."""
    pairs = zip(visits, u_policy, strict=True)
    return torch.stack([(visit.u_teacher - u).square().flatten(1).mean(dim=1) for visit, u in pairs]).mean(dim=0)


def data_free_losses(
    make_policy: MakePolicy,
    teacher: TeacherVelocity,
    noise: Tensor,
    *,
    segments: Segments,
    settings: ImitationSettings,
    teacher_ratio: float = 0.0,
    dropout: float = 0.0,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Yield one loss a segment, walking all of them from noise: no data is needed.

    The next source is where the detached policy's walk ends, so segments share no graph. Their losses, each weighted by
    its segment's length, add up to the loss of the walk: call backward on each as it comes, and memory is that of one.

    Args:
        make_policy: one evaluation of the student, (x_src (B, C, *S), sigma_src (B,)) -> live policy.
        teacher: the teacher's velocity.
        noise: standard normal, (B, C, *S): the state at raw time 1.
        segments: the NFE segments.
        settings, teacher_ratio, dropout, generator: as `imitate_segment`.

    Source: pi-Flow, section 4 (data-free training); weights and ends of segments as in the public implementation.
    """
    shift, total_substeps = settings.shift, settings.total_substeps
    x_src = noise
    for tau_from, tau_to in pairwise(segments.boundaries()):
        tau_src, tau_dst = (torch.full(noise.shape[:1], tau, dtype=torch.float64) for tau in (tau_from, tau_to))
        partition = draw_partition(
            tau_src - tau_dst, settings=settings, teacher_ratio=teacher_ratio, generator=generator
        )
        policy = make_policy(x_src, shift.sigma(tau_src).to(x_src.dtype))
        detached = policy.detach().perturb(dropout, generator=generator)
        visits = visit_states(detached, teacher, x_src, tau_src, partition, shift=shift, total_substeps=total_substeps)
        if tau_to > 0:
            x_src = finish_segment(detached, visits, tau_dst, shift=shift, total_substeps=total_substeps)
        loss = imitation_loss(policy, visits, settings=settings)[0] * (tau_from - tau_to)
        del policy, detached, visits  # nothing of this segment outlives its backward
        yield loss
        del loss
