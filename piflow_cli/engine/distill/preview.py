"""Preview pictures of a run: the student beside its teacher, from the same noise."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from piflow_cli.core.interfaces import Condition, DataSource, Teacher
from piflow_cli.core.sampling import sample_euler, sample_student
from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.io.files import write_atomic
from piflow_cli.io.pictures import grid_picture, png_bytes, to_pictures
from piflow_cli.preset import Preset

TEACHER_STEPS = 32
"""Euler steps of the teacher's reference pictures."""
SEED = 1234


class Preview:
    """The noise, the classes and the teacher's pictures that every preview of a run shares."""

    def __init__(self, preset: Preset, teacher: Teacher, run: RunFolder, data: DataSource) -> None:
        self.preset, self.teacher, self.run = preset, teacher, run
        count, device = preset.training.preview_images, next(teacher.module.parameters()).device
        generator = torch.Generator().manual_seed(SEED)
        self.noise = torch.randn((count, *teacher.space.latent_shape), generator=generator).to(device)
        drawn = data.preview(count)
        space = teacher.space
        self.condition = space.preview_conditions(count) if drawn is None else space.conditions(drawn)
        self.reference = None

    def write(
        self,
        student: nn.Module,
        *,
        step: int,
        teacher_network: Callable[[Tensor, Tensor, Condition], Tensor] | None,
        keep: bool = True,
    ) -> Path:
        """Sample and write previews/step-N.png: two rows, teacher above student; returns its path.

        Args:
            student: a Student in eval mode, or what a distributed wrapper made of it.
            step: of the run.
            teacher_network: evaluates the teacher inside the student, None where it has a module of its own.
            keep: False computes all and writes nothing, as processes do that hold a part of the weights.
        """
        if self.reference is None:
            latents = sample_euler(
                lambda x, sigma: self.teacher.velocity(x, sigma, self.condition, network=teacher_network),
                self.noise,
                num_steps=TEACHER_STEPS,
                shift=self.preset.sampling.time_shift,
            )
            self.reference = to_pictures(self.teacher.space.decode(latents).cpu())
        latents = sample_student(
            student,
            self.preset.policy,
            self.noise,
            self.condition,
            settings=self.preset.sampling.model_copy(update={"h": 0.0}),
        )
        pictures = [*self.reference, *to_pictures(self.teacher.space.decode(latents).cpu())]
        labels = (f"teacher, {TEACHER_STEPS} steps", f"student, {self.preset.sampling.nfe} NFE, step {step}")
        sheet = grid_picture(pictures, columns=len(self.reference), row_labels=labels)
        path = self.run / "previews" / f"step-{step:07d}.png"
        if keep:
            write_atomic(path, png_bytes(sheet))
        return path
