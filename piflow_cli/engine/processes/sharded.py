"""Parameters that torch.distributed shards (FSDP2): reading them whole, and writing whole values into them."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from piflow_cli.errors import PresetError
from piflow_cli.preset import Preset


def check_sharding(preset: Preset, *, sharded: bool) -> None:
    """Raise PresetError where parameters are to be sharded that cannot be."""
    if sharded and preset.teacher.quantization != "none":
        raise PresetError(
            f"teacher.quantization {preset.teacher.quantization}: a quantised base is not sharded; use DDP, or set it "
            "to none"
        )
    if sharded and preset.data.references is not None and preset.training.micro_batch_size != 1:
        raise PresetError(
            "data.references: prompts of a micro-batch may have pictures of other sizes, each of which takes a pass, "
            "and sharded processes have to take as many; set training.micro_batch_size=1, or use --strategy ddp"
        )
    if sharded and preset.optimizer.name == "muon":
        raise PresetError(
            "optimizer.name muon: Muon orthogonalises whole matrices, which no process holds under FSDP2; use "
            "--set optimizer.name=adamw, or --strategy ddp"
        )


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; every process must ask where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole value into a tensor, or into each process's shard of it."""
    if isinstance(target, DTensor):
        value = distribute_tensor(value.to(target.device, target.dtype), target.device_mesh, target.placements)
    target.copy_(value)
