"""How long a run takes: floating-point operations counted on the module itself, over what GPUs are known to do.

Shapes: B batch, C latent channels, S spatial dims.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from piflow_cli.core.student import Student
from piflow_cli.engine.plan.activations import teacher_passes
from piflow_cli.engine.plan.model import model_facts
from piflow_cli.preset import Preset

INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Args:
        tflops: dense peak of matrix products in bfloat16 summed in float32, by its data sheet.
        watts: its power limit.
    """

    name: str
    tflops: float
    watts: int


GPUS = (
    Gpu("4090", 165.2, 450),
    Gpu("A100", 312.0, 400),
    Gpu("H100", 989.4, 700),
    Gpu("H200", 989.4, 700),
    Gpu("B200", 2250.0, 1000),
)
"""By a part of the name that CUDA gives them; the SXM versions."""
UTILISATION = 0.35
"""Share of the peak that training reaches, assumed: recomputed blocks count as work."""


@dataclass(frozen=True)
class SampleFlops:
    """Floating-point operations of one sample, each multiplication and each addition counted.

    Args:
        student: an evaluation of the student with its backward pass, and what is recomputed for it.
        teacher: an evaluation of the teacher, without guidance.
    """

    student: int
    teacher: int


def sample_flops(preset: Preset) -> SampleFlops:
    """Operations of a sample at the largest size that is trained on; counted on the meta device, once a process.

    Raises:
        ModelError: the teacher's config cannot be had.
    """
    sizes = preset.data.sizes_px or (None,)
    checkpointing = preset.training.gradient_checkpointing
    asked = (max(sizes, key=_area), preset.data.references_px)
    return _counted(preset.teacher, preset.policy, preset.adapter, *asked, checkpointing)


def step_flops(preset: Preset) -> int:
    """Operations of an optimiser step over the whole batch, guidance acting everywhere."""
    flops, objective = sample_flops(preset), preset.objective
    segments = objective.num_losses(preset.sampling, has_images=preset.data.has_images)
    asked = objective.num_intermediates * teacher_passes(preset, model_facts(preset))
    return preset.training.batch_size * segments * (flops.student + asked * flops.teacher)


def hours(flops: int, *, tflops: float, utilisation: float, gpus: int) -> float:
    """Hours that `gpus` GPUs need for some operations."""
    return flops / (tflops * 1e12 * utilisation * gpus) / 3600


def utilisation(flops: int, *, wall_s: float, tflops: float, gpus: int) -> float:
    """Share of the peak that a run reached: operations of its steps over what the GPUs could have done meanwhile."""
    return flops / (wall_s * tflops * 1e12 * gpus)


def gpu_named(name: str) -> Gpu | None:
    """The kind of GPU that CUDA calls so, None where the table has none."""
    return next((gpu for gpu in GPUS if gpu.name in name), None)


def _area(size: tuple[int, int] | None) -> int:
    return 0 if size is None else size[0] * size[1]


@lru_cache(maxsize=4)
def _counted(
    teacher: Any,
    policy: Any,
    adapter: Any,
    size_px: tuple[int, int] | None,
    references_px: tuple[tuple[int, int] | None, ...],
    checkpointing: bool,
) -> SampleFlops:
    """Counted with one block of each kind, and what another one adds times the others: blocks of a list are alike."""
    module, backbone = teacher.describe()
    size = teacher.latent_size(module, size_px)
    lists = [name for name, child in module.named_children() if isinstance(child, nn.ModuleList)]
    depths = {name: len(module.get_submodule(name)) for name in lists}
    for name in lists:
        del module.get_submodule(name)[2:]

    def count(**blocks: int) -> Tensor:
        """Operations of student and teacher with one block of each list, but as many as `blocks` says."""
        shallow = copy.deepcopy(module)
        for name in lists:
            del shallow.get_submodule(name)[blocks.get(name, 1) :]
        original = None if adapter is not None else copy.deepcopy(shallow).to("meta")
        student = Student(shallow.to("meta"), backbone=backbone, family=policy, adapter=adapter)
        return _operations(student, original, size, teacher, references_px, checkpointing=checkpointing)

    once = count()
    more = [(depths[name] - 1) * (count(**{name: 2}) - once) for name in lists if depths[name] > 1]
    student, asked = (once + sum(more)).tolist()
    return SampleFlops(student, asked)


def _operations(
    student: Student,
    original: nn.Module | None,
    size: tuple[int, ...],
    teacher: Any,
    references_px: tuple[tuple[int, int] | None, ...],
    *,
    checkpointing: bool,
) -> Tensor:
    """Operations of the student's two passes and of the teacher's one, (2,), on one sample of `size` S."""
    from torch.utils.flop_counter import FlopCounterMode

    student.make_trainable()
    student.train()
    if checkpointing:
        student.module.enable_gradient_checkpointing()
    x = torch.zeros(1, student.backbone.latent_channels, *size, device="meta")
    sigma = torch.ones(1, device="meta")
    condition = teacher.dummy_condition(student.module, 1, references_px=references_px)
    trained, asked = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with PlacesOnHost(), trained:
        output, extra = student(x, sigma, condition)
        (output.sum() if extra is None else output.sum() + extra.sum()).backward()
    with PlacesOnHost(), asked, torch.no_grad():
        if original is not None:
            student.backbone.predict(original, x, sigma, condition)
        else:
            with student.as_teacher():
                student(x, sigma, condition)
    return torch.tensor([trained.get_total_flops(), asked.get_total_flops()])


class PlacesOnHost(TorchDispatchMode):
    """Within it tensors on the host join those on the meta device, after what they say of places was read.

    Some networks read numbers off their arguments, such as how many of a mask's tokens are of the image.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What `func` gives, on the meta device where any argument is there."""
        kwargs = dict(kwargs or {})
        if func.overloadpacket in INDEXING:
            args = (args[0], _numbered(args[1]), *args[2:])
        if any(isinstance(item, Tensor) and item.is_meta for item in tree_leaves((args, kwargs))):
            args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        return func(*args, **kwargs)


def _numbered(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Indices with numbers in the place of masks on the host, of which the meta device cannot count what is true."""
    found: list[Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool and not index.is_meta
        found += index.nonzero().unbind(1) if is_mask else [index]
    return found
