"""Peak memory of each process that holds a part of a random FLUX.1 under FSDP2, on CPUs.

python -m piflow_cli.speed.sharding [--processes 1 2 4] [--blocks 10] [--folder DIR]

The base is written to disk once (--folder keeps it), opened in outline, sharded and read in slices as a training run
does it; then one student evaluation with its backward pass. What is measured is memory of the process's own (anonymous
pages), less that of a process which has imported the same and joined the others: pages of mapped files belong to the
system's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch import Tensor, nn

WIDTH, HEADS = 1536, 12
"""Half of FLUX.1's."""
MARK = "PEAK "


def write_base(folder: Path, blocks: int) -> int:
    """A random FLUX.1 transformer with `blocks` single blocks and one double, in bfloat16; returns its weights."""
    from diffusers import FluxTransformer2DModel

    module = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=blocks,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        guidance_embeds=True,
    ).to(torch.bfloat16)
    module.save_pretrained(folder, max_shard_size="500MB")
    return sum(parameter.numel() for parameter in module.parameters())


class AnonymousPeak:
    """The largest anonymous memory of this process since `start`, in bytes, looked at every few milliseconds."""

    def start(self) -> None:
        """Begin to look."""
        self.peak, self._stop = anonymous_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.peak = max(self.peak, anonymous_bytes())
            time.sleep(0.002)

    def stop(self) -> int:
        """End, and return the peak."""
        self._stop.set()
        self._thread.join()
        return max(self.peak, anonymous_bytes())


def anonymous_bytes() -> int:
    """Memory of this process that is of no file, by Linux's word."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this needs Linux: /proc/self/status names no RssAnon")


def worker(folder: Path) -> None:
    """One process: join the others, build its part, take a step, and print what it took."""
    import torch.distributed as dist
    from diffusers import FluxTransformer2DModel
    from torch.distributed.device_mesh import init_device_mesh

    from piflow_cli.core.adapter import AdapterSettings, base_name
    from piflow_cli.core.conditions import TextCondition
    from piflow_cli.core.student import Student
    from piflow_cli.engine.distill.build import read_projection
    from piflow_cli.engine.processes.gathered import precision_policy, repeated_blocks
    from piflow_cli.engine.processes.sharded import fill
    from piflow_cli.engine.processes.sharding import materialise, real_parameters, shard
    from piflow_cli.io.tensors.slices import SlicedWeights
    from piflow_cli.policies.gmflow.family import GMFlow
    from piflow_cli.teachers.flux import Flux

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    family = Flux(source="nowhere/here", guidance_scale=3.5)
    empty, peak = anonymous_bytes(), AnonymousPeak()
    peak.start()
    config = FluxTransformer2DModel.load_config(folder)
    module = nn.Module.to(family.build(config), torch.bfloat16).requires_grad_(False).eval()
    files = SlicedWeights(sorted(folder.glob("*.safetensors")))
    backbone, generator = family.backbone(config), torch.Generator().manual_seed(0)
    read_projection(module, backbone.projection_name, files)
    student = Student.from_teacher(
        module, backbone=backbone, family=GMFlow(), generator=generator, adapter=AdapterSettings(rank=16)
    )
    student.make_trainable()
    made, head = dict(real_parameters(student)), f"{backbone.projection_name}.student."

    def source_of(name: str) -> str | None:
        name = name.removeprefix("module.")
        return None if name.startswith(head) else base_name(name)

    shard(student, blocks=repeated_blocks(student.module), mesh=mesh, policy=precision_policy("bf16"))
    materialise(student, files, source_of, dtype=torch.bfloat16, device=torch.device("cpu"), made=made)
    student.init_lora(generator, write=fill)
    built = peak.stop()
    peak.start()
    condition = TextCondition(
        embeds=torch.randn(1, 8, 4096), pooled=torch.randn(1, 768), guidance=torch.full((1,), 3.5)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, extra = student(torch.randn(1, 16, 8, 8), torch.ones(1), condition)
    _loss(output, extra).backward()
    stepped = peak.stop()
    print(MARK + json.dumps({"rank": dist.get_rank(), "built": built - empty, "step": stepped - empty}), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def _loss(output: Tensor, extra: Tensor) -> Tensor:
    return output.float().square().mean() + extra.float().square().mean()


def measure(folder: Path, processes: int) -> list[dict[str, int]]:
    """What each of some processes took, in bytes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    ended = subprocess.run(
        [*launcher, "-m", "piflow_cli.speed.sharding", "--worker", "--folder", str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "0"},
        check=False,
    )
    rows = [json.loads(line.removeprefix(MARK)) for line in ended.stdout.splitlines() if line.startswith(MARK)]
    if len(rows) != processes:
        raise RuntimeError(ended.stderr[-3000:])
    return rows


def main() -> None:
    """Measure and print a line a number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--blocks", type=int, default=10, help="single blocks; one double block is there too")
    parser.add_argument("--folder", type=Path, default=None, help="where the base is, or is written")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "transformer"
        if not (folder / "config.json").exists():
            print(f"{write_base(folder, options.blocks):,} weights in {folder}")
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        print(f"base {size / 1e6:,.0f} MB in bfloat16\nprocesses  built MB (largest)  with a step MB (largest)")
        for processes in options.processes:
            rows = measure(folder, processes)
            built, step = (max(row[key] for row in rows) / 1e6 for key in ("built", "step"))
            print(f"{processes:>9}  {built:>18,.0f}  {step:>24,.0f}")


if __name__ == "__main__":
    main()
