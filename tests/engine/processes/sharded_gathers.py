"""Run on several processes: what is gathered in the passes of a sharded student and its teacher, in bytes.

Prints what one largest block takes, what stays gathered outside the blocks, and the most that a pass had at one time.
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from piflow_cli.engine.distill.build import build_sharded
from piflow_cli.engine.processes.gathered import repeated_blocks
from piflow_cli.preset import load_preset

CPU = torch.device("cpu")


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    whole, mixed_precision, name, *changes = sys.argv[1:]
    preset = load_preset(name, changes)
    if whole == "whole":
        preset = preset.model_copy(update={"adapter": None})
    dtype = torch.float32 if mixed_precision == "no" else torch.bfloat16
    teacher, files = preset.teacher.outline(dtype=dtype)
    place = {"mesh": mesh, "mixed_precision": mixed_precision, "device": CPU}
    student = build_sharded(preset, teacher, files, **place, generator=torch.Generator().manual_seed(0))
    networks = [student] if preset.adapter is not None else [student, teacher.module]
    block, outside = parts(networks)
    print(f"rank {dist.get_rank()}: block {block} outside {outside} most {most(networks, teacher)}", flush=True)
    dist.destroy_process_group()


def gathered(networks: list[nn.Module]) -> int:
    """Bytes of parameters that are whole."""
    parameters = (parameter for network in networks for parameter in network.parameters())
    return sum(p.nbytes for p in parameters if not isinstance(p, DTensor))


def parts(networks: list[nn.Module]) -> tuple[int, int]:
    """Bytes of the largest block, and of the rest, each gathered and let go by torch itself."""
    blocks, outside = [], 0
    for network in networks:
        inside = {id(block) for block in repeated_blocks(getattr(network, "module", network))}
        for part in network.modules():
            if not isinstance(part, FSDPModule):
                continue
            part.unshard()
            if id(part) in inside:
                blocks.append(gathered(networks))
            else:
                outside += gathered(networks)
            part.reshard()
            assert gathered(networks) == 0
    return max(blocks), outside


def most(networks: list[nn.Module], teacher: object) -> int:
    """The most that is whole while any layer runs: a pass of the student, and then one of its teacher."""
    student, found = networks[0].eval(), [0]

    def look(*_: object) -> None:
        found.append(gathered(networks))

    for network in networks:
        for part in network.modules():
            if not isinstance(part, FSDPModule):
                part.register_forward_pre_hook(look)
                part.register_full_backward_pre_hook(look)
    space = teacher.space
    condition, draw = space.preview_conditions(2), torch.Generator().manual_seed(1)
    x, sigma = torch.randn((2, *space.latent_shape), generator=draw), torch.tensor([0.9, 0.4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, extra = student(x, sigma, condition)
    with torch.no_grad():
        if len(networks) == 1:
            with torch.autocast("cpu", dtype=torch.bfloat16), student.as_teacher():
                student(x, sigma, condition)
        else:
            teacher.backbone.predict(teacher.module, x, sigma, condition)
    (output.float().square().mean() + (0.0 if extra is None else extra.float().square().mean())).backward()
    return max(found)


if __name__ == "__main__":
    main()
