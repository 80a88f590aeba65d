"""A base that every process reads for itself: refused where it differs, and sent by nobody."""

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from piflow_cli.engine.processes.copies import check_same_base, keep_frozen_out
from piflow_cli.engine.processes.together import Together
from piflow_cli.errors import PiflowError
from piflow_cli.io.tensors.slices import SlicedWeights


def network(seed: int) -> nn.Sequential:
    """A frozen layer with a buffer behind it, and one that is trained."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    return module


def compare(rank: int, folder: Path) -> None:
    """Write down what this process is told about two copies of one base, and about two bases, whole and in files."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    together = Together(num_processes=2, index=rank)
    same, other = network(0), network(rank)
    file = folder / f"base-{rank}.safetensors"
    save_file(other.state_dict(), file)
    said = []
    for base in (same, other, SlicedWeights([folder / "base-0.safetensors"]), SlicedWeights([file])):
        try:
            check_same_base(base, "mine", together)
            said.append("same")
        except PiflowError as error:
            said.append(str(error))
    (folder / f"said-{rank}").write_text("\n".join(said))
    together.leave()


def test_processes_that_read_other_weights_are_refused(tmp_path: Path) -> None:
    save_file(network(0).state_dict(), tmp_path / "base-0.safetensors")
    multiprocessing.spawn(compare, args=(tmp_path,), nprocs=2)
    for rank in (0, 1):
        said = (tmp_path / f"said-{rank}").read_text().splitlines()
        assert said[0] == said[2] == "same"
        for message in (said[1], said[3]):
            assert "process 1 has read other weights of mine than process 0" in message


def test_only_what_is_trained_starts_as_the_first_process_has_it(tmp_path: Path) -> None:
    """In a group of one: DDP lists what it sends, and quantised tensors would have failed there."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        module = network(0)
        keep_frozen_out(module)
        wrapped = DistributedDataParallel(module)
        sent = {name for name, _ in wrapped.named_parameters()} - {f"module.{n}" for n in wrapped.parameters_to_ignore}
        assert sent == {"module.2.weight", "module.2.bias"}
        assert wrapped.modules_buffers == []
    finally:
        dist.destroy_process_group()


def test_one_process_is_compared_with_nobody() -> None:
    check_same_base(network(0), "mine", Together())
