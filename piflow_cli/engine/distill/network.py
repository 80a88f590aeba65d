"""What a run trains: the student beside its teacher, copied to every process (DDP) or sharded over them (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from piflow_cli.core.interfaces import Condition, Policy, Teacher
from piflow_cli.core.student import Student, make_policy
from piflow_cli.engine.distill.build import build_sharded, build_student
from piflow_cli.engine.distill.offload import activations_on_host
from piflow_cli.engine.plan.plan import plan
from piflow_cli.engine.processes.compiling import compile_blocks
from piflow_cli.engine.processes.copies import check_same_base, keep_frozen_out
from piflow_cli.engine.processes.precision import Precision
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.processes.world import Strategy
from piflow_cli.engine.students.device import resolve_dtype
from piflow_cli.io.tensors.slices import SlicedWeights
from piflow_cli.preset import Preset

if TYPE_CHECKING:
    from accelerate import Accelerator

Evaluate = Callable[[Tensor, Tensor, Condition], tuple[Tensor, Tensor | None]]
"""(x (B, C, *S), sigma (B,), condition) -> the network's output and what its head reads off the embedding."""
FULL = 0.95
"""Part of a device's memory that a copied network may fill before `auto` shards it."""


PASSES = {"no": "the weights' own precision", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class TrainedNetwork:
    """A run's network.

    Args:
        student: the module itself.
        wrapped: what is called, which exchanges gradients between processes.
        precision: of its passes.
        sharded: whether every process holds a part of it.
    """

    student: Student
    wrapped: nn.Module
    precision: Precision
    sharded: bool

    @property
    def pass_dtype(self) -> torch.dtype:
        """What its passes are computed in."""
        return self.precision.dtype or next(iter(self.student.own_parameters().values())).dtype

    def evaluate(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """One evaluation, in the precision of the run."""
        with self.precision.autocast():
            return self.wrapped(x, sigma, condition)

    def evaluate_teacher(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """The teacher's output by the network that an adapted student shares with it, through all that wraps it."""
        with torch.no_grad(), self.student.as_teacher():
            return self.evaluate(x, sigma, condition)[0]

    def evaluate_alone(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """One evaluation that other processes need not join, unless the network is sharded over them."""
        network = self.wrapped if self.sharded else self.student
        with self.precision.autocast():
            return network(x, sigma, condition)

    def describe(self, num_processes: int, micro_batch: int, accumulation: int) -> str:
        """How a run is spread over processes and passes, in words."""
        how = "sharded over them (FSDP2)" if self.sharded else "copied to each (DDP)"
        who = f"{num_processes} processes, the network {how}" if num_processes > 1 else "1 process"
        share = f"batch {num_processes * micro_batch * accumulation} = {num_processes} x {micro_batch}"
        share += f" x {accumulation} accumulated" if accumulation > 1 else ""
        own = sum(parameter.numel() for parameter in self.student.own_parameters().values())
        where = f"{self.precision.device.type}, passes in {PASSES[self.precision.name]}"
        return f"{who}; {share}; {where}; {own:,} trainable parameters"

    def policy(self, preset: Preset, x: Tensor, sigma: Tensor, condition: Condition) -> Policy:
        """The live policy of one evaluation at the source x (B, C, *S), sigma (B,)."""
        with activations_on_host(self.wrapped, wanted=preset.training.offload_activations):
            return make_policy(self.evaluate, preset.policy, x, sigma, condition)

    def exchanging(self, accelerator: Accelerator, wanted: bool) -> AbstractContextManager[None]:
        """What a backward pass runs under: whether processes exchange gradients after it, or add them up first."""
        if self.sharded:
            self.wrapped.set_requires_gradient_sync(wanted)
            return nullcontext()
        return nullcontext() if wanted else accelerator.no_sync(self.wrapped)


def open_teacher(
    preset: Preset, *, device: torch.device, encoders: bool, sharded: bool
) -> tuple[Teacher, SlicedWeights | None]:
    """The teacher, or where it will be sharded its outline and the files of its weights."""
    dtype = resolve_dtype(preset.training.teacher_dtype, device)
    if sharded:
        return preset.teacher.outline(device=device, dtype=dtype, encoders=encoders)
    return preset.teacher.load(device=device, dtype=dtype, encoders=encoders), None


def build_network(
    preset: Preset,
    teacher: Teacher,
    files: SlicedWeights | None,
    *,
    accelerator: Accelerator,
    together: Together,
    precision: Precision,
) -> TrainedNetwork:
    """The student of a run and what wraps it.

    Args:
        preset: the recipe.
        teacher: whole, or in outline.
        files: the weights of an outline, None for a whole teacher.
        accelerator: of the run's processes.
        together: the same processes.
        precision: of the student's passes.

    Raises:
        ModelError: as `check_same_base`.
    """
    check_same_base(teacher.module if files is None else files, preset.teacher.source, together)
    device, generator = accelerator.device, torch.Generator().manual_seed(preset.training.seed)
    if files is None:
        student = build_student(preset, teacher, generator=generator).to(device)
    else:
        student = build_sharded(
            preset,
            teacher,
            files,
            mesh=init_device_mesh(device.type, (accelerator.num_processes,)),
            mixed_precision=precision.name,
            device=device,
            generator=generator,
        )
    if preset.training.gradient_checkpointing:
        student.module.enable_gradient_checkpointing()
    if preset.training.compile:
        for module in {id(module): module for module in (student.module, teacher.module)}.values():
            compile_blocks(module, sharded=files is not None)
    wrapped: nn.Module = student
    if files is None:
        keep_frozen_out(student)
        wrapped = accelerator.prepare(student)
    return TrainedNetwork(student=student, wrapped=wrapped, precision=precision, sharded=files is not None)


def resolve_strategy(
    asked: Strategy, preset: Preset, *, device: torch.device, num_processes: int
) -> Literal["ddp", "fsdp2"]:
    """Whether processes copy the network or share it: as asked; `auto` shards where a copy would fill a GPU.

    Args:
        asked: auto, ddp or fsdp2.
        preset: whose memory is reckoned.
        device: of this process.
        num_processes: of the run; one alone copies.
    """
    if num_processes == 1:
        return "ddp"
    if asked != "auto":
        return asked
    if device.type != "cuda" or preset.teacher.quantization != "none":
        return "ddp"
    needed = plan(preset, gpus=num_processes).memory_bytes("DDP", num_processes)
    return "fsdp2" if needed > FULL * torch.cuda.get_device_properties(device).total_memory else "ddp"
