"""What a benchmark compares, as one kind of thing: a student at some NFE, or a teacher with one of its solvers.

Shapes: B batch, C latent channels, S spatial dims, N pictures.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from piflow_cli.core.flow import generators_of
from piflow_cli.core.interfaces import Space, Teacher, TeacherFamily
from piflow_cli.core.sampling import Stopwatch, sample_student
from piflow_cli.core.schedule import Shift
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.benchmark.questions import Questions
from piflow_cli.engine.benchmark.solvers import num_evaluations, solve
from piflow_cli.engine.students.finite import decode_finite
from piflow_cli.engine.students.load import LoadedStudent, change_teacher
from piflow_cli.engine.students.stored import stored_bytes
from piflow_cli.errors import DataError
from piflow_cli.io.pictures import to_uint8


@dataclass
class Meter:
    """What sampling cost: wall time by what spent it, and pictures that went through the network."""

    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    network_rows: int = 0


@dataclass(frozen=True, eq=False)
class Sampler:
    """One row of a benchmark before it is measured.

    Args:
        model: name of the student or teacher.
        kind: which of them.
        method: the policy of a student, the solver of a teacher.
        steps: segments of a student, steps of a solver.
        nfe: evaluations a picture, of the student or of the teacher's (guided) velocity.
        shift: m of the time grid.
        module: the network whose calls are counted.
        space: conditions and decoder.
        draw: (noise (B, C, *S), condition, index of the first picture, stopwatch) -> latents (B, C, *S).
        teacher: of the teacher and its time grid; a student's rows compare to the teacher rows of the same value.
        h: stochasticity between a student's segments.
        quantization: how the base is held; none is whole.
        weights_bytes: of the network's parameters as they are kept; None where nobody counted.
        of_seed: the same sampler of another seed; None where nothing is drawn on the way.
    """

    model: str
    kind: Literal["student", "teacher"]
    method: str
    steps: int
    nfe: int
    shift: float
    module: nn.Module
    space: Space
    draw: Callable[[Tensor, object, int, Stopwatch], Tensor]
    teacher: str
    h: float = 0.0
    quantization: str = "none"
    weights_bytes: int | None = None
    of_seed: Callable[[int], Sampler] | None = None

    def with_seed(self, seed: int) -> Sampler:
        """The same, with what is drawn on the way from another seed."""
        return self if self.of_seed is None else self.of_seed(seed)

    @property
    def title(self) -> str:
        """In words."""
        way = f" {self.quantization}" if self.quantization != "none" else ""
        return f"{self.model} {self.method} {self.nfe} NFE{way}"

    def pictures(
        self,
        questions: Questions,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        meter: Meter,
        takes: Callable[[int], bool] = lambda _number: True,
    ) -> Iterator[Tensor]:
        """Batches (B, 1 or 3, H, W) in [0, 1], rounded to the 256 levels of a file, on the CPU.

        Picture i answers question i from the i-th noise of the seed, whatever the batch size and the model.

        Args:
            takes: of the number of a batch: whether this process draws it.

        Raises:
            SamplingError: latents or pictures that are not finite.
        """
        row, dtype = self.title, next(self.module.parameters()).dtype
        generator = torch.Generator().manual_seed(seed)
        for number, start in enumerate(range(0, len(questions), batch_size)):
            count = min(batch_size, len(questions) - start)
            noise = torch.stack([torch.randn(self.space.latent_shape, generator=generator) for _ in range(count)])
            if not takes(number):
                continue
            condition = questions.condition(self.space, start, start + count)
            with _counted(self.module, meter):
                latents = self.draw(noise.to(device), condition, start, meter.stopwatch)
            yield to_uint8(decode_finite(self.space, latents, name=row, dtype=dtype)).cpu().float() / 255


def teacher_of(student: LoadedStudent, *, whole: bool = False) -> TeacherFamily:
    """The settings of the teacher that a student is measured beside: those of the base it was loaded onto, if any.

    Args:
        whole: whether its base is to be held unquantised, however the student's is.
    """
    quantised = student.family.quantization != "none"
    return change_teacher(student.family, {"quantization": "none"}) if whole and quantised else student.family


def patch_px_of(students: Sequence[LoadedStudent]) -> tuple[int, int]:
    """Height and width in pixels of what one token of the students' networks draws.

    Raises:
        DataError: networks of other patches, whose pictures have no grid in common.
    """
    found: dict[tuple[int, int], str] = {}
    for student in students:
        (width, height), latent = student.space.size_px, student.space.latent_shape
        down, across = student.network.backbone.layout.sides[-2:]
        found.setdefault((height // latent[-2] * down, width // latent[-1] * across), student.name)
    if len(found) > 1:
        listed = ", ".join(f"{name} {width}x{height}" for (height, width), name in found.items())
        raise DataError(f"networks of other patches ({listed} px) have no grid in common: benchmark them one by one")
    return next(iter(found))


def student_sampler(
    student: LoadedStudent, settings: SamplingSettings, *, seed: int, whole_teacher: bool = False
) -> Sampler:
    """A student sampled with `settings`; what is drawn between its segments depends on seed and picture alone.

    Args:
        whole_teacher: whether it is measured beside the unquantised teacher, as `teacher_of`.
    """

    def draw(noise: Tensor, condition: object, start: int, stopwatch: Stopwatch) -> Tensor:
        return sample_student(
            student.network,
            student.card.policy,
            noise,
            condition,
            settings=settings,
            generator=generators_of(picture_seed(seed, start + i) for i in range(len(noise))),
            stopwatch=stopwatch,
        )

    return Sampler(
        model=student.name,
        kind="student",
        method=student.card.policy.type,
        steps=settings.nfe,
        nfe=settings.nfe,
        shift=settings.shift,
        module=student.network.module,
        space=student.space,
        draw=draw,
        teacher=teacher_key(teacher_of(student, whole=whole_teacher), settings.time_shift),
        h=settings.h,
        quantization=student.quantization,
        weights_bytes=stored_bytes(student.network.module),
        of_seed=lambda other: student_sampler(student, settings, seed=other, whole_teacher=whole_teacher),
    )


def picture_seed(seed: int, picture: int) -> int:
    """Seed of what one picture draws on its way: 32 bits, all that PyTorch's generator on the CPU uses."""
    return random.Random(f"{seed} {picture}").getrandbits(32)


def teacher_sampler(teacher: Teacher, solver: str, num_steps: int, *, settings: TeacherFamily, shift: Shift) -> Sampler:
    """A teacher, loaded by `settings`, sampled with `num_steps` steps of a solver on the time grid of its students."""

    def draw(noise: Tensor, condition: object, start: int, stopwatch: Stopwatch) -> Tensor:  # noqa: ARG001
        begun, network_s = time.perf_counter(), 0.0

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal network_s
            asked = time.perf_counter()
            u = teacher.velocity(x, sigma, condition)
            _wait_for(x.device)
            network_s += time.perf_counter() - asked
            return u

        latents = solve(solver, velocity, noise, num_steps=num_steps, shift=shift)
        _wait_for(latents.device)
        stopwatch.network_s += network_s
        stopwatch.policy_s += time.perf_counter() - begun - network_s
        return latents

    return Sampler(
        model=teacher.name,
        kind="teacher",
        method=solver,
        steps=num_steps,
        nfe=num_evaluations(solver, num_steps),
        shift=shift.m,
        module=teacher.module,
        space=teacher.space,
        draw=draw,
        teacher=teacher_key(settings, shift),
        quantization=settings.quantization,
        weights_bytes=stored_bytes(teacher.module),
    )


def teacher_key(settings: TeacherFamily, shift: Shift) -> str:
    """Equal for samplers that should agree as steps grow: one teacher, guided alike, on one time grid."""
    return f"{settings.model_dump_json()} shift {shift.m:g}"


@contextmanager
def _counted(module: nn.Module, meter: Meter) -> Iterator[None]:
    """Within the context, the rows of every batch the module is run on are added to the meter."""

    def count(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        meter.network_rows += next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)).shape[0]

    handle = module.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was asked, so that time is charged to what spent it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
