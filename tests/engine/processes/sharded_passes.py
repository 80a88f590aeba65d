"""Run on several processes: passes in bfloat16 of a sharded network beside those of a whole one, and their gradients.

Prints by how much, of the largest number, the student's output, the teacher's and the gradients differ.
"""

import sys

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from piflow_cli.core.interfaces import Condition
from piflow_cli.core.student import Student
from piflow_cli.engine.distill.build import build_sharded, build_student
from piflow_cli.engine.processes.sharded import fill, whole
from piflow_cli.preset import load_preset

CPU = torch.device("cpu")


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    preset = load_preset(sys.argv[1], sys.argv[2:])
    outline, files = preset.teacher.outline(dtype=torch.bfloat16, encoders=False)
    place = {"mesh": mesh, "mixed_precision": "bf16", "device": CPU}
    sharded = build_sharded(preset, outline, files, **place, generator=torch.Generator().manual_seed(0))
    copied = preset.teacher.load(dtype=torch.bfloat16)
    expected = build_student(preset, copied, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():  # LoRA begins without effect
        for ours, theirs in zip(own(sharded), own(expected), strict=True):
            value = whole(theirs.detach()) + 0.1 * torch.randn(theirs.shape, generator=draw)
            fill(theirs, value)
            fill(ours, value)
    space = copied.space
    condition = space.conditions(["a red cat", "blue dog"])
    x = torch.randn((2, *space.latent_shape), generator=draw)
    sigma = torch.tensor([0.9, 0.4])
    pairs = zip(
        passes(sharded, x, sigma, condition),
        passes(expected, x, sigma, condition),
        strict=True,
    )
    for name, (ours, theirs) in zip(("student", "teacher", "gradients"), pairs, strict=True):
        assert ours.abs().max() > 0, name
        assert ours.dtype == theirs.dtype, name
        print(f"rank {dist.get_rank()}: {name} {float((ours - theirs).abs().max() / theirs.abs().max())}", flush=True)
    dist.destroy_process_group()


def own(student: Student) -> list[torch.nn.Parameter]:
    return list(student.own_parameters().values())


def passes(student: Student, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
    """The student's output, the teacher's, and all gradients of the mean square of the former, one after another."""
    student.eval()  # no dropout in LoRA
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, extra = student(x, sigma, condition)
    loss = output.float().square().mean() + (0.0 if extra is None else extra.float().square().mean())
    loss.backward()
    gradients = [whole(p.grad).flatten() for p in own(student) if p.grad is not None]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), student.as_teacher():
        taught = student(x, sigma, condition)[0]
    return output.detach(), taught, torch.cat(gradients)


if __name__ == "__main__":
    main()
