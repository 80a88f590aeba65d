"""Drawing a scene by the student in training or by its teacher, each process a share of it; a video as its strip.

Shapes: N pictures, C latent channels or colours, S spatial dims, H, W size in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from piflow_cli.core.interfaces import Condition, Teacher
from piflow_cli.core.sampling import sample_euler, sample_student
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.distill.network import TrainedNetwork
from piflow_cli.engine.distill.showing.scene import Scene
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.students.finite import decode_finite
from piflow_cli.io.sheets.videos import stills
from piflow_cli.preset import Preset

Draw = Callable[[Tensor, Condition], Tensor]
"""(noise (B, C, *S), condition) -> latents (B, C, *S)."""


class Drawer:
    """Draws scenes, a micro-batch at a time; processes share them unless the network is sharded over them.

    Args:
        preset: the recipe.
        teacher: of the run.
        network: what is trained, in eval mode and with the weights to draw with.
        batch_size: pictures a pass.
        together: the processes.
    """

    def __init__(
        self, preset: Preset, teacher: Teacher, network: TrainedNetwork, *, batch_size: int, together: Together
    ) -> None:
        self.preset, self.teacher, self.network = preset, teacher, network
        self.batch_size, self.together = batch_size, together
        self.device = teacher.space.device

    def by_teacher(self, scene: Scene, *, steps: int) -> Tensor:
        """The teacher's pictures (N, C, H, W) in [0, 1] by Euler steps, on the CPU of every process.

        Raises:
            SamplingError: they are not finite.
        """
        inside = self.network.evaluate_teacher if self.preset.adapter is not None else None

        def draw(noise: Tensor, condition: Condition) -> Tensor:
            return sample_euler(
                lambda x, sigma: self.teacher.velocity(x, sigma, condition, network=inside),
                noise,
                num_steps=steps,
                shift=self.preset.sampling.time_shift,
            )

        said = {"name": f"the teacher in {steps} steps", "option": "training.teacher_dtype"}
        return self._together(scene, draw, dtype=next(self.teacher.module.parameters()).dtype, **said)

    def by_student(self, scene: Scene, settings: SamplingSettings, *, step: int) -> Tensor:
        """The student's pictures (N, C, H, W) in [0, 1], on the CPU of every process.

        Raises:
            SamplingError: they are not finite.
        """
        said = {"name": f"the student of step {step}", "option": "training.mixed_precision"}
        return self._together(scene, self._student(settings), dtype=self.network.pass_dtype, **said)

    def share_by_student(self, scene: Scene, settings: SamplingSettings, *, step: int) -> Iterator[Tensor]:
        """This process's share of the student's pictures, in batches (B, C, H, W).

        Raises:
            SamplingError: they are not finite.
        """
        said = {"name": f"the student of step {step}", "option": "training.mixed_precision"}
        return self._batches(scene, self._student(settings), dtype=self.network.pass_dtype, **said)

    def share(self, count: int) -> list[int]:
        """Which of `count` pictures this process draws: all of them where the network is sharded."""
        if self.network.sharded:
            return list(range(count))
        return list(range(self.together.index, count, self.together.num_processes))

    def joined(self, found: Tensor, count: int) -> Tensor:
        """What every process has found of its share, (n, ...), in the order of all `count` pictures."""
        if self.network.sharded or self.together.num_processes == 1:
            return found
        parts = self.together.gather(found)
        whole = torch.empty(count, *max(parts, key=len).shape[1:])
        for index, part in enumerate(parts):
            if len(part):  # of fewer pictures than processes some have none
                whole[index :: self.together.num_processes] = part
        return whole

    def _student(self, settings: SamplingSettings) -> Draw:
        def draw(noise: Tensor, condition: Condition) -> Tensor:
            return sample_student(self.network.evaluate_alone, self.preset.policy, noise, condition, settings=settings)

        return draw

    def _together(self, scene: Scene, draw: Draw, **said: object) -> Tensor:
        """All pictures, in every process; the error of one is raised by all."""
        parts = self.together.each_does(lambda: list(self._batches(scene, draw, **said)))
        return self.joined(torch.cat(parts) if parts else torch.empty(0), len(scene))

    def _batches(self, scene: Scene, draw: Draw, *, name: str, dtype: torch.dtype, option: str) -> Iterator[Tensor]:
        share = self.share(len(scene))
        for start in range(0, len(share), self.batch_size):
            part = scene.part(share[start : start + self.batch_size])
            latents = draw(part.noise(self.device), part.condition)
            decoded = decode_finite(self.teacher.space, latents, name=name, dtype=dtype, option=option)
            yield stills(decoded.float().cpu())
