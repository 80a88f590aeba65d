"""The student of a run, made from its teacher: whole, or sharded over processes from the meta device on."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from piflow_cli.core.adapter import base_name
from piflow_cli.core.interfaces import Teacher
from piflow_cli.core.student import Student
from piflow_cli.engine.processes.gathered import precision_policy, repeated_blocks
from piflow_cli.engine.processes.sharded import fill
from piflow_cli.engine.processes.sharding import materialise, real_parameters, shard
from piflow_cli.io.tensors.exact import rounded_dtype, stays_float32
from piflow_cli.io.tensors.slices import SlicedWeights
from piflow_cli.preset import Preset


def build_student(preset: Preset, teacher: Teacher, *, generator: torch.Generator) -> Student:
    """A student initialised from the teacher, its own weights in float32 and trainable.

    With an adapter it is the teacher's own module, which then serves both; without, a copy of it.
    """
    module = teacher.module if preset.adapter is not None else copy.deepcopy(teacher.module).float()
    student = Student.from_teacher(
        module, backbone=teacher.backbone, family=preset.policy, generator=generator, adapter=preset.adapter
    )
    student.make_trainable()
    return student


def build_sharded(
    preset: Preset,
    teacher: Teacher,
    files: SlicedWeights,
    *,
    mesh: DeviceMesh,
    mixed_precision: str,
    device: torch.device,
    generator: torch.Generator,
) -> Student:
    """What `build_student` makes, its weights and the teacher's sharded over processes; every process reads its part.

    Args:
        preset: the recipe.
        teacher: in outline: its module is on the meta device, and is sharded too.
        files: its weights.
        mesh: one dimension of processes.
        mixed_precision: no, bf16 or fp16: what parameters are gathered in.
        device: of this process.
        generator: of the initial weights; every process draws the same.
    """
    adapted, projection = preset.adapter is not None, teacher.backbone.projection_name
    policy, dtype = precision_policy(mixed_precision), rounded_dtype(teacher.module)
    exact = partial(stays_float32, teacher.module)
    read_projection(teacher.module, projection, files)
    module = teacher.module if adapted else copy.deepcopy(teacher.module).float()
    student = Student.from_teacher(
        module, backbone=teacher.backbone, family=preset.policy, generator=generator, adapter=preset.adapter
    )
    student.make_trainable()
    head = f"{projection}.student." if adapted else f"{projection}."

    def source_of(name: str) -> str | None:
        name = name.removeprefix("module.")
        return None if name.startswith(head) else base_name(name)

    made = dict(real_parameters(student))
    shard(student, blocks=repeated_blocks(student.module), mesh=mesh, policy=policy, exact=exact)
    materialise(student, files, source_of, dtype=dtype, device=device, made=made, exact=exact)
    if adapted:
        student.init_lora(generator, write=fill)
        return student
    whole = dict(real_parameters(teacher.module))
    shard(teacher.module, blocks=repeated_blocks(teacher.module), mesh=mesh, policy=precision_policy("no"))
    materialise(teacher.module, files, str, dtype=dtype, device=device, made=whole, exact=exact)
    return student


@torch.no_grad()
def read_projection(module: nn.Module, name: str, files: SlicedWeights) -> None:
    """Give the final projection its weights on the CPU: a head is made from it, and it is small."""
    projection = module.get_submodule(name)
    projection.to_empty(device="cpu")
    for key, parameter in projection.named_parameters():
        parameter.copy_(files.read(f"{name}.{key}"))
