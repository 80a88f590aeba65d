"""Untrained students: where they start, what of them is trained, and where gradients go.

Shapes: B batch, C latent channels, S spatial dims.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.core.interfaces import PolicyFamily
from piflow_cli.core.student import Student
from piflow_cli.engine.check.subject import SEED, Finding, Subject, largest, right, unmeasured, wrong

TOLERANCE = 1e-4
LORA_B = ".lora_B.weight"
RANK = 4
"""Of the LoRA that is tried."""


def check_student(subject: Subject, policy: PolicyFamily) -> Finding:
    """The untrained student's velocity at the source against the teacher's."""
    name, still = f"student ({policy.type})", policy.still()
    if isinstance(Student(subject.module_copy(), **_parts(subject, still)).head, nn.Linear):
        return wrong(name, "replace_projection leaves the teacher's projection where it was")
    student, worst = new_student(subject, still), 0.0
    for size_px in subject.sizes_px:
        x, sigma = subject.state(size_px), subject.sigmas(1.0)
        with torch.no_grad():
            output, _ = student(x, sigma, subject.condition)
            wanted = (len(x), still.output_channels(subject.teacher.backbone.latent_channels), *x.shape[2:])
            if tuple(output.shape) != wanted:
                why = "does replace_projection let the module pass on wider tokens?"
                return wrong(name, f"its output is {tuple(output.shape)}, not {wanted}: {why}")
            u = student.policy(x, sigma, subject.condition).velocity(x, sigma)
        worst = max(worst, largest(u - subject.velocity(x, 1.0)))
    if not worst <= TOLERANCE * max(1.0, largest(u)):
        opposite = largest(u + subject.velocity(x, 1.0)) <= TOLERANCE * max(1.0, largest(u))
        why = ": it has the other sign" if opposite else ": are the rows of the projection in the order of its layout?"
        return wrong(name, f"untrained, its velocity at the source is {worst:.3g} from the teacher's{why}")
    head = ", ".join(f"{key} {tuple(p.shape)}" for key, p in itertools.islice(student.head.named_parameters(), 2))
    return right(name, f"untrained, its velocity at the source is the teacher's, to {worst:.1e}; head {head}")


def new_student(subject: Subject, policy: PolicyFamily) -> Student:
    """An untrained student on a copy of the teacher's module."""
    generator = torch.Generator().manual_seed(SEED)
    return Student.from_teacher(subject.module_copy(), generator=generator, **_parts(subject, policy)).eval()


def _parts(subject: Subject, policy: PolicyFamily) -> dict[str, Any]:
    """What a student is made of beside its module."""
    adapter = AdapterSettings(rank=RANK, dropout=0.0) if subject.adapts else None
    return {"backbone": subject.teacher.backbone, "family": policy, "adapter": adapter}


def check_lora(subject: Subject) -> Finding:
    """Whether the layers that get LoRA are there, and stay."""
    backbone, module = subject.teacher.backbone, subject.teacher.module
    targets = backbone.lora_targets(module)
    if not targets:
        return unmeasured("lora", "students of this family are trained in full")
    linear = {name for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    if missing := [name for name in targets if name not in linear]:
        return wrong("lora", f"{_first_of(missing)} no linear layer of the module")
    replaced = (*backbone.trained_modules, backbone.projection_name)
    if useless := [name for name in targets if any(name == own or name.startswith(f"{own}.") for own in replaced)]:
        return wrong("lora", f"{useless[0]} is in what students replace ({', '.join(replaced)})")
    return right(
        "lora",
        f"{len(targets)} layers of {len(linear)}, and {', '.join(backbone.trained_modules) or 'no module'} in full",
    )


def check_gradient(subject: Subject, policy: PolicyFamily) -> Finding:
    """Gradient in the head and in every LoRA, and none in what is frozen."""
    student = new_student(subject, policy)
    student.make_trainable()
    x, sigma = subject.state(), subject.sigmas(1.0)
    policy_there = student.policy(x, sigma, subject.condition)
    policy_there.velocity(x, sigma * 0.9).square().mean().backward()
    own = student.own_parameters()
    ids = {id(parameter) for parameter in own.values()}
    if touched := [n for n, p in student.named_parameters() if id(p) not in ids and p.grad is not None]:
        return wrong("gradient", f"it reaches {touched[0]}, which is frozen")
    head = {id(parameter) for parameter in student.head.parameters()}
    reached = {name for name, parameter in own.items() if _reached(parameter)}
    if not any(id(own[name]) not in head for name in reached):
        return wrong("gradient", "none goes into the network: is its output cut from the graph?")
    if idle := [name.removesuffix(LORA_B) for name in own if name.endswith(LORA_B) and name not in reached]:
        return wrong(
            "gradient", f"none reaches LoRA on {idle[0]}: nothing reads what it gives ({len(idle)} such layers)"
        )
    said = f"in the head and the network, {len(reached)} of {len(own)} weights of the student"
    return right("gradient", f"{said}; none in the base" if subject.adapts else said)


def _first_of(names: list[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more targets are"


def _reached(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
