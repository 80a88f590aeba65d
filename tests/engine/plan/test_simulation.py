"""The plan's activations against a training step on tensors without storage: real widths, few blocks.

Fake tensors have shapes, dtypes and lifetimes but no memory. The step runs under the CPU's autocast, with what CUDA's
does otherwise: LayerNorm in float32, and a dropout mask of one byte.

Shapes: B batch, C latent channels, H, W latent size.
"""

import gc
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from piflow_cli.core.conditions import TextCondition, join_conditions
from piflow_cli.core.student import Student
from piflow_cli.engine.plan.activations import Setup, kept, moments, teacher_passes
from piflow_cli.engine.plan.model import model_facts
from piflow_cli.preset import Preset, load_preset
from piflow_cli.teachers import flux
from piflow_cli.teachers.flux2 import backbone as flux2

TEXT = 512
SHALLOW = {
    "flux-4nfe": {"num_layers": 2, "num_single_layers": 4},
    "qwen-4nfe": {"num_layers": 5},
    "flux2-klein-4nfe": {"num_layers": 2, "num_single_layers": 8},
}
TOLERANCE = 0.1


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations made and that are alive; `peak` may be set back to `now`.

    Args:
        known: tensors that do not count.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.live: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.live or key in self.known:
            return
        self.live[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self.live.pop(key)


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    layer_norm = F.layer_norm

    def in_float32(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return layer_norm(x.float() if torch.is_autocast_enabled("cpu") else x, *args, **kwargs)

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return torch.native_dropout(x, p, True)[0] if training and p > 0 else x

    monkeypatch.setattr(F, "layer_norm", in_float32)
    monkeypatch.setattr(F, "dropout", dropout)
    yield
    for made_once in (flux._image_ids, flux._text_ids, flux2._image_ids, flux2._text_ids):
        made_once.cache_clear()  # of fake tensors


def shallow_preset(name: str, folder: Path, *, micro_batch_size: int) -> Preset:
    """A preset whose teacher is a pipeline's configs, as wide as the real one and a few blocks deep."""
    settings = load_preset(name).teacher
    config = settings.describe()[0].config
    config = {key: value for key, value in config.items() if not key.startswith("_")} | SHALLOW[name]
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": settings.pipeline_classes[0]}))
    return load_preset(name, [f"teacher.source={folder}", f"training.micro_batch_size={micro_batch_size}"])


def materialise(student: Student) -> None:
    """Give a student on meta its base in bfloat16 and what trains in float32; call within a FakeTensorMode."""
    own = {id(parameter) for parameter in student.own_parameters().values()}
    for part in student.modules():
        for name, parameter in part.named_parameters(recurse=False):
            trains = id(parameter) in own
            values = torch.empty(parameter.shape, dtype=torch.float32 if trains else torch.bfloat16)
            setattr(part, name, nn.Parameter(values, requires_grad=trains))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype))


@pytest.mark.parametrize("name", SHALLOW)
def test_activations_are_those_of_a_simulated_step(name: str, tmp_path: Path, as_on_cuda: None) -> None:
    batch = 4
    preset = shallow_preset(name, tmp_path, micro_batch_size=batch)
    facts = model_facts(preset)
    setup = Setup("one GPU", 1, batch, accumulates=True, cached=True)
    planned = {item.name: item.bytes for item in (*kept(preset, facts, setup), *moments(preset, facts, setup))}
    module, backbone = preset.teacher.describe()
    student = Student(module, backbone=backbone, family=preset.policy, adapter=preset.adapter).train()
    student.module.enable_gradient_checkpointing()
    with FakeTensorMode(allow_non_fake_inputs=True):
        materialise(student)
        passes, dtype = teacher_passes(preset, facts), torch.bfloat16
        takes = facts.condition
        condition = TextCondition(
            embeds=torch.randn(batch, TEXT, takes.text_width, dtype=dtype),
            pooled=torch.randn(batch, takes.pooled_width, dtype=dtype) if takes.pooled_width else None,
            guidance=torch.full((batch,), 3.5) if takes.embeds_guidance else None,
        )
        x, sigma = torch.randn(batch, backbone.latent_channels, 128, 128), torch.rand(batch)
        doubled = (torch.cat([x] * passes), torch.cat([sigma] * passes), join_conditions([condition] * passes))
        with LiveBytes([*student.parameters()]) as memory:
            with torch.autocast("cpu", dtype=dtype):
                output, extra = student(x, sigma, condition)
            gc.collect()
            held, forward = memory.now, memory.peak - memory.now
            memory.peak = memory.now
            with torch.no_grad(), torch.autocast("cpu", dtype=dtype), student.as_teacher():
                student(*doubled)
            gc.collect()
            teacher = memory.peak - held
            loss = output.float().square().mean() + extra.float().mean()
            memory.peak = memory.now
            loss.backward()
            backward = memory.peak - held
    assert held == pytest.approx(planned["what the blocks keep"] + planned["last norm"], rel=TOLERANCE)
    assert teacher == pytest.approx(planned["teacher forward"], rel=TOLERANCE)
    assert backward == pytest.approx(planned["backward, one block again"], rel=TOLERANCE)
    assert forward < planned["student forward"] < 1.5 * forward
