"""Peak memory of a training step with one copy of the base for teacher and student, and with two.

python -m piflow_cli.speed.sharing [--width 1024] [--blocks 8]
Each case runs in a process of its own, whose peak resident memory is read at its end.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import resource
import sys
from queue import Queue

import torch

from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.core.conditions import TextCondition
from piflow_cli.core.imitation import ImitationSettings, data_free_losses
from piflow_cli.core.schedule import Segments, Shift
from piflow_cli.core.student import Student
from piflow_cli.policies.gmflow.family import GMFlow
from piflow_cli.teachers.flux import FluxBackbone

RANK, TEXT_TOKENS, LATENT = 16, 32, (16, 16, 16)
KIB = 1 if sys.platform == "darwin" else 1024
"""Bytes in the unit of ru_maxrss."""


def peak_bytes() -> int:
    """The most resident memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def random_flux(width: int, blocks: int) -> torch.nn.Module:
    """A FLUX transformer of random weights with as many single blocks as double ones."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        num_attention_heads=width // 64,
        attention_head_dim=64,
        num_layers=blocks,
        num_single_layers=blocks,
        joint_attention_dim=256,
        pooled_projection_dim=64,
        axes_dims_rope=(16, 24, 24),
        guidance_embeds=True,
    ).requires_grad_(False)


def measure(shared: bool, width: int, blocks: int, results: Queue) -> None:
    """Put (parameters of the base, of the student, peak bytes of a whole step) into the queue."""
    module = random_flux(width, blocks)
    base = sum(p.numel() for p in module.parameters())
    teacher = None if shared else copy.deepcopy(module)
    backbone, generator = FluxBackbone(LATENT[0]), torch.Generator().manual_seed(0)
    family = GMFlow(num_components=8, logstd_inner_dim=64)
    adapter = AdapterSettings(rank=RANK)
    student = Student.from_teacher(module, backbone=backbone, family=family, generator=generator, adapter=adapter)
    student.make_trainable()
    own = list(student.own_parameters().values())
    optimizer = torch.optim.AdamW(own)
    averages = [p.detach().clone() for p in own]
    condition = TextCondition(
        torch.randn(1, TEXT_TOKENS, 256), pooled=torch.randn(1, 64), guidance=torch.full((1,), 3.5)
    )

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if teacher is not None:
            return backbone.predict(teacher, x, sigma, condition)
        with student.as_teacher():
            return student(x, sigma, condition)[0]

    losses = data_free_losses(
        lambda x, sigma: student.policy(x, sigma, condition),
        velocity,
        torch.randn(1, *LATENT),
        segments=Segments(4, 0.5),
        settings=ImitationSettings(shift=Shift(3.2), num_intermediates=2, total_substeps=32),
        generator=generator,
    )
    for loss in losses:
        loss.backward()
    optimizer.step()
    for average, parameter in zip(averages, own, strict=True):
        average.lerp_(parameter.detach(), 0.5)
    results.put((base, sum(p.numel() for p in own), peak_bytes()))


def main() -> None:
    """Measure both cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024, help="of the transformer, a multiple of 64")
    parser.add_argument("--blocks", type=int, default=8, help="double blocks, and as many single ones")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = {}
    for shared in (True, False):
        results = context.Queue()
        process = context.Process(target=measure, args=(shared, options.width, options.blocks, results))
        process.start()
        found[shared] = results.get()
        process.join()
    base, own, *_ = found[True]
    print(f"base {base:,} weights, student's own {own:,}")
    for shared, words in ((True, "one copy"), (False, "two copies")):
        print(f"{words:<11} peak {found[shared][2] / 1e9:.2f} GB")
    saved = found[False][2] - found[True][2]
    print(f"difference  {saved / 1e9:.2f} GB = {saved / (4 * base):.2f} of the base's {4 * base / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
