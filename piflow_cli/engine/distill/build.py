"""The student of a run, made from its teacher, and the teacher's network where the student holds it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from piflow_cli.core.interfaces import Condition, Policy, Teacher
from piflow_cli.core.student import Student, make_policy
from piflow_cli.engine.distill.offload import activations_on_host
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


def student_policy(network: nn.Module, preset: Preset, x: Tensor, sigma: Tensor, condition: Condition) -> Policy:
    """The policy of one evaluation of the student, or what wraps it, at the source x (B, C, *S), sigma (B,)."""
    with activations_on_host(network, wanted=preset.training.offload_activations):
        return make_policy(network, preset.policy, x, sigma, condition)


def shared_network(network: nn.Module, student: Student) -> Callable[[Tensor, Tensor, Condition], Tensor]:
    """The teacher's network inside a student, evaluated through whatever wraps the student for distributed training."""

    def evaluate(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        with torch.no_grad(), student.as_teacher():
            return network(x, sigma, condition)[0]

    return evaluate
