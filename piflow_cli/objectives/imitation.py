"""Policy imitation distillation, pi-ID (pi-Flow, section 4): its keys in a preset, and the losses of a training step.

Shapes: B batch, C latent channels, S spatial dims.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from piflow_cli.core.flow import diffuse, on_host, randn_like_seeded, send
from piflow_cli.core.imitation import ImitationSettings, data_free_losses, imitate_segment
from piflow_cli.core.interfaces import TrainingBatch
from piflow_cli.core.settings import SamplingSettings, Settings
from piflow_cli.errors import PresetError


class Imitation(Settings):
    """The student's policy matches the teacher's velocity along its own trajectories."""

    type: Literal["imitation"] = "imitation"
    num_intermediates: int = Field(2, ge=1, le=64, description="states a segment at which the teacher is asked")
    stratified: bool = Field(
        False,
        description="draw each of those states in its own equal part of the segment: the same loss with less noise",
    )
    window_substeps: int = Field(0, ge=0, le=128, description="micro window in substeps; 0 matches velocities")
    loss_scale: float = Field(3.0, gt=0, allow_inf_nan=False, description="factor of the loss")
    teacher_mixing_steps: int = Field(
        0, ge=0, description="steps over which the teacher's share of a trajectory falls from 1 to 0; 0 is off"
    )

    def check_sampling(self, sampling: SamplingSettings) -> None:
        """Raise PresetError where no segment has room for the window, or for so many states."""
        substeps = max(1, round(sampling.segments.longest * sampling.total_substeps))
        where = f"the longest segment of sampling.nfe {sampling.nfe} has {substeps} of sampling.total_substeps"
        if self.window_substeps >= substeps and self.window_substeps > 0:
            raise PresetError(
                f"objective.window_substeps: less than {substeps}: {where}, and a window as long as its segment leaves "
                f"nowhere to visit but the source (got {self.window_substeps})"
            )
        if self.num_intermediates > substeps:
            raise PresetError(
                f"objective.num_intermediates: at most {substeps}: {where}, and states nearer than a substep are the "
                f"same state (got {self.num_intermediates})"
            )

    def doubts(self, sampling: SamplingSettings) -> list[str]:
        """What is allowed and seldom meant: a window as long as the shortest segment."""
        shortest = min(start - end for start, end in pairwise(sampling.segments.boundaries()))
        substeps = max(1, round(shortest * sampling.total_substeps))
        if not 0 < substeps <= self.window_substeps:
            return []
        return [
            f"objective.window_substeps {self.window_substeps} is as long as the shortest segment, that has {substeps} "
            f"of sampling.total_substeps {sampling.total_substeps}: there the window is the segment, and its source is "
            "all that is visited"
        ]

    def num_losses(self, sampling: SamplingSettings, *, has_images: bool) -> int:
        """Losses that `losses` yields: one segment from a diffused picture, or all of a walk from noise."""
        return 1 if has_images else sampling.nfe

    def teacher_ratio(self, step: int) -> float:
        """The teacher's share of a trajectory: 1 - min(step, decay) / decay, 0 where mixing is off."""
        decay = self.teacher_mixing_steps
        return 0.0 if decay == 0 else 1 - min(step, decay) / decay

    def losses(
        self, batch: TrainingBatch, *, sampling: SamplingSettings, dropout: float, step: int
    ) -> Iterator[Tensor]:
        """Yield the losses of one micro-batch, each to be backpropagated before the next is asked for.

        Args:
            batch: what is trained on, and how to ask student and teacher.
            sampling: what the student is trained for.
            dropout: strength of the noise on the detached policy.
            step: training steps taken before this one.

        Source: pi-Flow, algorithms 1 (with data: one segment, drawn in proportion to its length) and 2 (data-free).
        """
        options = {
            "settings": self.settings(sampling),
            "teacher_ratio": self.teacher_ratio(step),
            "dropout": dropout,
            "generator": batch.generator,
        }
        if batch.latents is None:
            noise = randn_like_seeded(batch.shape, batch.generator, batch.device)
            walk = data_free_losses(batch.make_policy, batch.teacher, noise, segments=sampling.segments, **options)
            lengths = [start - end for start, end in pairwise(sampling.segments.boundaries())]
            for i, length in enumerate(lengths):
                loss = next(walk)
                batch.segments.add(torch.tensor([i]), loss.detach()[None] / length)
                yield loss
                del loss  # nothing of a segment outlives its backward
            return
        latents = send(batch.latents, batch.device)
        tau = on_host(1 - torch.rand(len(latents), generator=batch.generator))  # (B,) in (0, 1]
        tau_src, length = sampling.segments.locate(tau)
        sigma_src = sampling.time_shift.sigma(tau_src).to(latents.dtype)
        x_src = diffuse(latents, randn_like_seeded(batch.shape, batch.generator, batch.device), sigma_src)
        policy = batch.make_policy(x_src, sigma_src)
        index = sampling.segments.index(tau)
        yield imitate_segment(
            policy,
            batch.teacher,
            x_src,
            tau_src,
            length,
            on_losses=lambda losses: batch.segments.add(index, losses),
            **options,
        )

    def settings(self, sampling: SamplingSettings) -> ImitationSettings:
        """What one step does, for students that are sampled so."""
        return ImitationSettings(
            shift=sampling.time_shift,
            num_intermediates=self.num_intermediates,
            stratified=self.stratified,
            window_substeps=self.window_substeps,
            total_substeps=sampling.total_substeps,
            loss_scale=self.loss_scale,
        )
