"""Tiny runs of `piflow distill` on CPUs, by the command line and on one process or several: DiT, FLUX and Qwen-Image.

Everything is float32 or, by `in_float64.py`, float64; a batch is shared out in equal micro-batches, so that any number
of processes that divides it takes the same ones.
"""

import os
import subprocess
import sys
from pathlib import Path

from tiny_pipelines import base_folder
from torch import Tensor

from piflow_cli.io.tensors.distributed import read_tensors

TEXT = {
    "teacher.width": 48,
    "teacher.height": 64,
    "adapter.rank": 4,
    "training.mixed_precision": "no",
    "training.batch_size": 4,
    "training.micro_batch_size": 1,
    "data.limit": 3,
    "sampling.total_substeps": 32,
}
FLUX = TEXT | {"teacher.source": base_folder("flux"), "teacher.max_sequence_length": 12}
FAMILIES = {
    "dit": ("digits-1nfe", {"training.batch_size": 8, "training.micro_batch_size": 2}),
    "flux": ("flux-4nfe-datafree", FLUX),
    "qwen": ("qwen-4nfe-datafree", TEXT | {"teacher.source": base_folder("qwen")}),
}
COMMON = {
    "training.teacher_dtype": "float32",
    "training.preview_every": 0,
    "optimizer.name": "adamw",
    "optimizer.warmup_steps": 0,
    "optimizer.clip_norm": 1e9,
}
SMALL_TEXT = (
    "adapter.rank=4",
    "policy.num_components=3",
    "policy.logstd_inner_dim=16",
    "sampling.total_substeps=16",
    "objective.num_intermediates=2",
    "objective.window_substeps=1",
    "optimizer.warmup_steps=1",
    "training.batch_size=2",
    "training.micro_batch_size=2",
    "training.mixed_precision='no'",
    "training.teacher_dtype='float32'",
    "training.checkpoint_every=2",
    "training.preview_every=0",
)
"""What makes a recipe of a text-to-image teacher one of seconds, as arguments of --set."""
IN_FLOAT64 = Path(__file__).with_name("in_float64.py")


def settings(folder: Path, family: str, **changes: object) -> list[str]:
    """`KEY=VALUE` of a family's run, its prompts in `folder`; changes replace what is set here."""
    _, own = FAMILIES[family]
    own = COMMON | own
    if family != "dit":
        prompts = folder / "prompts.txt"
        prompts.write_text("a red cat\nblue dog\nthe house\n")
        own = own | {"data.path": prompts, "data.cache": folder / "cache"}
    return [f"{key}={value}" for key, value in (own | changes).items()]


def arguments(folder: Path, family: str, *, out: Path, **changes: object) -> list[str]:
    """`distill ...` of a family's run into `out`."""
    sets = [part for setting in settings(folder, family, **changes) for part in ("--set", setting)]
    return ["distill", "--preset", FAMILIES[family][0], "--device", "cpu", "--out", str(out), *sets]


def environment() -> dict[str, str]:
    """This one's, for a process that is not of a group yet."""
    alone = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return alone | {"OMP_NUM_THREADS": "1"}


def run_in_float64(words: list[str], *, processes: int = 1, strategy: str = "ddp") -> None:
    """Run a command in double precision, and see it end well."""
    spread = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    line = [sys.executable, *(spread if processes > 1 else []), str(IN_FLOAT64), *words, "--strategy", strategy]
    ended = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


def stored(run: Path, step: int, prefix: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names begin so, whole."""
    return read_tensors(run / "checkpoints" / f"step-{step:07d}", prefix)


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Relative to the largest number of all."""
    assert a.keys() == b.keys()
    size = max(float(tensor.abs().max()) for tensor in b.values())
    return max(float((a[name] - b[name]).abs().max()) for name in a) / size
