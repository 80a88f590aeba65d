"""Which share of its GPUs' peak a run reaches: operations of a step, counted on the module, over the time it takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from piflow_cli.engine.plan.work import UTILISATION, Gpu, gpu_named, step_flops, utilisation
from piflow_cli.preset import Preset


@dataclass(frozen=True)
class Work:
    """What a step asks of the GPUs of a run.

    Args:
        flops: operations of a step over the whole batch, at the largest size that is trained on, recomputed blocks and
            guidance of every sample included.
        gpu: the kind of GPU.
        count: how many there are.
    """

    flops: int
    gpu: Gpu
    count: int

    def share(self, step_s: float) -> float:
        """The share of the peak of all GPUs, where a step takes `step_s` seconds."""
        return utilisation(self.flops, wall_s=step_s, tflops=self.gpu.tflops, gpus=self.count)

    def words(self, step_s: float) -> str:
        """The same for people, beside what `--plan` reckons with."""
        gpus = f"{self.count} {self.gpu.name}" if self.count > 1 else f"one {self.gpu.name}"
        peak = f"the bfloat16 peak of {gpus} ({self.gpu.tflops:g} TFLOPS each)"
        return f"{self.share(step_s):.0%} of {peak}; --plan reckons with {UTILISATION:.0%}"


def work_of(preset: Preset, device: torch.device, *, num_processes: int) -> Work | None:
    """What a step asks of the GPUs; None on a CPU, and on a kind of GPU whose peak is not known.

    Args:
        preset: the recipe.
        device: of this process; the others have the same.
        num_processes: each with a GPU of its own.
    """
    if device.type != "cuda":
        return None
    gpu = gpu_named(torch.cuda.get_device_name(device))
    return None if gpu is None else Work(step_flops(preset), gpu, num_processes)
