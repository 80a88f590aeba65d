"""Students on the small text-to-image pipelines with weights that look trained, and one student of every kind."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_models import PARITY, dx, gmflow, stored_student, tiny_flux, tiny_qwen

from piflow_cli.core.adapter import AdapterSettings
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.core.student import Student
from piflow_cli.formats.student import StoredStudent, StudentCard
from piflow_cli.policies.dx import DX
from piflow_cli.policies.gmflow.family import GMFlow
from piflow_cli.teachers.flux import Flux
from piflow_cli.teachers.qwen_image import QwenImage

TEACHERS = {"flux": tiny_flux, "qwen": tiny_qwen}
BASES = {family: PARITY / f"e2e_{family}" / "pipeline" for family in TEACHERS}
TEXT_POLICIES = {"gm": gmflow(), "dx": dx(segment_size=2 / 7, shift=3.2)}
LORA = AdapterSettings(rank=4, dropout=0.0)
FOUR_STEPS = SamplingSettings(nfe=4, shift=3.2, final_step_scale=0.5, total_substeps=16)


def adapter_folder(family: str, kind: str) -> Path:
    """A released adapter of the fixtures: family flux or qwen, kind gm or dx."""
    return PARITY / f"e2e_{family}" / f"adapter_{kind}{family}"


def text_student(
    teacher: Flux | QwenImage,
    policy: GMFlow | DX,
    *,
    adapter: AdapterSettings | None = LORA,
    sampling: SamplingSettings | None = None,
    seed: int = 0,
) -> StoredStudent:
    """A student of a small pipeline, every weight of its own drawn anew; without an adapter these are all."""
    config = json.loads((Path(teacher.source) / "transformer" / "config.json").read_text())
    network = teacher.describe_released({}, config)
    module = teacher.build(network["config"])
    student = Student(module, backbone=teacher.backbone(network["config"]), family=policy, adapter=adapter)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(parameter.shape, generator=generator) * 0.1
        for name, parameter in student.own_parameters().items()
    }
    card = StudentCard(
        piflow_version="0.0.0",
        preset="tiny",
        steps=7,
        teacher=teacher,
        network=network,
        policy=policy,
        adapter=adapter,
        sampling=sampling or SamplingSettings(nfe=1, total_substeps=16),
    )
    return StoredStudent(card=card, weights=weights)


STUDENTS: dict[str, Callable[[GMFlow | DX], StoredStudent]] = {
    "dit": stored_student,
    "flux": lambda policy: text_student(tiny_flux(), policy),
    "qwen": lambda policy: text_student(tiny_qwen(), policy),
    "flux-whole": lambda policy: text_student(tiny_flux(), policy, adapter=None),
}
"""A student of every kind: whole ones, adapters, and whole ones that are used with their base's encoders."""


def style_lora(folder: Path, layer: str, rows: int, columns: int, *, seed: int = 0) -> Path:
    """A LoRA of rank 2 on one layer, as trainers save them for a pipeline."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(exist_ok=True)
    weights = {
        f"transformer.{layer}.lora_A.weight": torch.randn(2, columns, generator=generator),
        f"transformer.{layer}.lora_B.weight": torch.randn(rows, 2, generator=generator),
    }
    save_file(weights, folder / "pytorch_lora_weights.safetensors")
    return folder
