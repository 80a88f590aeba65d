"""What a run will cost, by arithmetic from configs alone: parameters, memory, disk, steps. No weights are read."""

from dataclasses import asdict, dataclass

from piflow_cli.core.student import Student
from piflow_cli.engine.models import DTYPES
from piflow_cli.preset import Preset

FP32 = 4
ADAM_STATES = {"adamw": 8, "adamw8bit": 2, "auto": 8}
"""Bytes of optimiser state a trainable parameter; auto is counted as the larger."""


@dataclass(frozen=True)
class Plan:
    """Estimates of a run; sizes in bytes.

    Memory leaves activations out: they depend on the micro-batch and on checkpointing.
    """

    preset: str
    steps: int
    batch_size: int
    num_devices: int
    micro_batch_size: int
    accumulation: int
    images: int
    teacher_parameters: int
    head_parameters: int
    trainable_parameters: int
    teacher_bytes: int
    weights_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    ema_bytes: int
    checkpoint_bytes: int
    student_bytes: int
    disk_bytes: int
    teacher_evaluations: int

    @property
    def memory_bytes(self) -> int:
        """Memory a device, without activations."""
        return self.teacher_bytes + self.weights_bytes + self.gradient_bytes + self.optimizer_bytes + self.ema_bytes

    def sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Titled rows of label and value, for people."""
        return [
            (
                "Parameters",
                [
                    ("teacher (frozen)", f"{self.teacher_parameters:,}"),
                    ("student (trainable)", f"{self.trainable_parameters:,}"),
                    ("of which policy head", f"{self.head_parameters:,}"),
                ],
            ),
            (
                f"Memory on each of {self.num_devices} device(s), without activations",
                [
                    ("teacher weights", size(self.teacher_bytes)),
                    ("student weights (fp32)", size(self.weights_bytes)),
                    ("gradients", size(self.gradient_bytes)),
                    ("optimiser state", size(self.optimizer_bytes)),
                    ("average of the weights", size(self.ema_bytes)),
                    ("sum", size(self.memory_bytes)),
                ],
            ),
            (
                "Disk",
                [
                    ("one checkpoint", size(self.checkpoint_bytes)),
                    ("student", size(self.student_bytes)),
                    ("run in all", size(self.disk_bytes)),
                ],
            ),
            (
                "Work",
                [
                    ("optimiser steps", f"{self.steps:,}"),
                    ("effective batch", f"{self.batch_size:,}"),
                    (
                        "made of",
                        f"{self.num_devices} device(s) x {self.accumulation} accumulated x {self.micro_batch_size}",
                    ),
                    ("images in all", f"{self.images:,}"),
                    ("teacher evaluations in all", f"{self.teacher_evaluations:,}"),
                ],
            ),
        ]

    def to_dict(self) -> dict[str, int | str]:
        """All estimates by name."""
        return {**asdict(self), "memory_bytes": self.memory_bytes}


def plan(preset: Preset, *, num_devices: int = 1) -> Plan:
    """Estimate a run from the teacher's config alone.

    Args:
        preset: the recipe.
        num_devices: processes that share the batch, each with a whole copy of the model.

    Raises:
        ModelError: the teacher's config cannot be had.
        DataError: the batch does not divide over the devices.
    """
    from piflow_cli.engine.distill import micro_batches

    settings = preset.training
    micro, accumulation = micro_batches(preset, num_devices)
    module, backbone = preset.teacher.describe()
    teacher_parameters = count(module)
    student = Student(module, backbone=backbone, family=preset.policy)
    trainable = count(student)
    teacher_dtype = DTYPES[settings.teacher_dtype]
    images = settings.steps * settings.batch_size
    passes = 1 if getattr(preset.teacher, "guidance_scale", 1.0) == 1 else 2
    walks = preset.sampling.nfe if preset.data.type == "noise" else 1
    states = trainable * ADAM_STATES[preset.optimizer.name]
    checkpoint = trainable * (2 * FP32) + states
    return Plan(
        preset=preset.name,
        steps=settings.steps,
        batch_size=settings.batch_size,
        num_devices=num_devices,
        micro_batch_size=micro,
        accumulation=accumulation,
        images=images,
        teacher_parameters=teacher_parameters,
        head_parameters=count(student.head),
        trainable_parameters=trainable,
        teacher_bytes=teacher_parameters * teacher_dtype.itemsize,
        weights_bytes=trainable * FP32,
        gradient_bytes=trainable * FP32,
        optimizer_bytes=states,
        ema_bytes=trainable * FP32,
        checkpoint_bytes=checkpoint,
        student_bytes=trainable * FP32,
        disk_bytes=checkpoint * (settings.checkpoints_kept + 1) + trainable * FP32,
        teacher_evaluations=images * preset.objective.num_intermediates * passes * walks,
    )


def run_bytes(preset: Preset) -> int:
    """Disk that a run needs at its fullest: kept checkpoints, the one being written, and the student."""
    return plan(preset).disk_bytes


def count(module: object) -> int:
    """Parameters of a module, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def size(num_bytes: int) -> str:
    """A size in the largest decimal unit that keeps it above 1."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
