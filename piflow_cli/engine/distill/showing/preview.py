"""Preview pictures of a run: the student beside its teacher, from the same noise."""

import torch
from PIL import Image
from torch import Tensor

from piflow_cli.core.interfaces import DataSource, Teacher
from piflow_cli.core.sampling import sample_euler, sample_student
from piflow_cli.engine.distill.events import Journal
from piflow_cli.engine.distill.network import TrainedNetwork
from piflow_cli.engine.distill.resume.run_folder import RunFolder
from piflow_cli.engine.students.finite import decode_finite
from piflow_cli.errors import SamplingError
from piflow_cli.io.files import write_atomic
from piflow_cli.io.pictures import grid_picture, png_bytes, to_pictures
from piflow_cli.preset import Preset

TEACHER_STEPS = 32
"""Euler steps of the teacher's reference pictures."""
SEED = 1234


class Preview:
    """The noise, the classes and the teacher's pictures that every preview of a run shares."""

    def __init__(
        self,
        preset: Preset,
        teacher: Teacher,
        run: RunFolder,
        data: DataSource,
        *,
        network: TrainedNetwork,
        journal: Journal,
    ) -> None:
        self.preset, self.teacher, self.run, self.network, self.journal = preset, teacher, run, network, journal
        count, device = preset.training.preview_images, next(teacher.module.parameters()).device
        generator = torch.Generator().manual_seed(SEED)
        self.noise = torch.randn((count, *teacher.space.latent_shape), generator=generator).to(device)
        drawn = data.preview(count)
        space = teacher.space
        self.condition = space.preview_conditions(count) if drawn is None else space.conditions(drawn)
        self.reference: list[Image.Image] | None = None

    def write(self, *, step: int, keep: bool = True) -> None:
        """Sample and write previews/step-N.png: two rows, teacher above student; and tell of it.

        Pictures that are not finite are told of in place of a sheet of black ones. Training goes on: whether it can is
        decided by its losses.

        Args:
            step: of the run, whose network is in eval mode.
            keep: False computes all and writes nothing, as processes do that hold a part of the weights.
        """
        try:
            if self.reference is None:
                self.reference = self._teacher_pictures()
            pictures = [*self.reference, *self._student_pictures(step)]
        except SamplingError as error:
            self.journal.tell("warning", message=f"no preview of step {step}, and training goes on: {error}")
            return
        labels = (f"teacher, {TEACHER_STEPS} steps", f"student, {self.preset.sampling.nfe} NFE, step {step}")
        sheet = grid_picture(pictures, columns=len(self.reference), row_labels=labels)
        path = self.run / "previews" / f"step-{step:07d}.png"
        if keep:
            write_atomic(path, png_bytes(sheet))
        self.journal.tell("preview", path=path)

    def _teacher_pictures(self) -> list[Image.Image]:
        inside = self.network.evaluate_teacher if self.preset.adapter is not None else None
        latents = sample_euler(
            lambda x, sigma: self.teacher.velocity(x, sigma, self.condition, network=inside),
            self.noise,
            num_steps=TEACHER_STEPS,
            shift=self.preset.sampling.time_shift,
        )
        dtype = next(self.teacher.module.parameters()).dtype
        return self._decode(latents, f"the teacher in {TEACHER_STEPS} steps", dtype, option="training.teacher_dtype")

    def _student_pictures(self, step: int) -> list[Image.Image]:
        settings = self.preset.sampling.model_copy(update={"h": 0.0})
        latents = sample_student(
            self.network.evaluate_alone, self.preset.policy, self.noise, self.condition, settings=settings
        )
        name, dtype = f"the student of step {step}", self.network.pass_dtype
        return self._decode(latents, name, dtype, option="training.mixed_precision")

    def _decode(self, latents: Tensor, name: str, dtype: torch.dtype, *, option: str) -> list[Image.Image]:
        space = self.teacher.space
        return to_pictures(decode_finite(space, latents, name=name, dtype=dtype, option=option).cpu())
