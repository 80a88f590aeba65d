"""Run on several processes: a sharded student holds the weights of a whole one; prints the largest difference."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from piflow_cli.engine.distill.build import build_sharded, build_student
from piflow_cli.engine.processes.sharded import whole
from piflow_cli.engine.students.device import resolve_dtype
from piflow_cli.preset import load_preset

CPU = torch.device("cpu")


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    preset = load_preset(sys.argv[1], sys.argv[2:])
    dtype = resolve_dtype(preset.training.teacher_dtype, CPU)
    teacher, files = preset.teacher.outline(dtype=dtype, encoders=False)
    sharded = build_sharded(
        preset,
        teacher,
        files,
        mesh=mesh,
        mixed_precision="no",
        device=CPU,
        generator=torch.Generator().manual_seed(0),
    )
    copied = preset.teacher.load(dtype=dtype, encoders=False)
    expected = build_student(preset, copied, generator=torch.Generator().manual_seed(0))
    pairs = [(dict(sharded.named_parameters()), dict(expected.named_parameters()))]
    if preset.adapter is None:
        pairs.append((dict(teacher.module.named_parameters()), dict(copied.module.named_parameters())))
    buffers = dict(expected.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in sharded.named_buffers())
    held = total = 0
    difference = 0.0
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys()
        for name, parameter in ours.items():
            assert isinstance(parameter, DTensor), name
            assert parameter.requires_grad == theirs[name].requires_grad, name
            held, total = held + parameter.to_local().numel(), total + parameter.numel()
            difference = max(difference, float((whole(parameter.detach()) - theirs[name].detach()).abs().max()))
    print(f"rank {dist.get_rank()}: difference {difference}, holds {held / total:.3f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
