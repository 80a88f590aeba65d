"""The published networks of the fixtures as ours, and the published size."""

from typing import Any

import parity
import torch
from torch import Tensor

from piflow_cli.core.student import Student
from piflow_cli.policies.dx import DX
from piflow_cli.policies.gmflow.family import GMFlow
from piflow_cli.teachers.dit.backbone import DiTBackbone
from piflow_cli.teachers.dit.config import FREQ_SHIFT, to_diffusers
from piflow_cli.teachers.dit.loading.weights import build, load_weights

DIT_XL_2: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "num_layers": 28,
    "num_embeds_ada_norm": 1000,
    "sample_size": 32,
    "patch_size": 2,
}
"""DiT-XL/2 on 32x32 latents: 1,152 wide, 28 layers, 1,000 classes."""
MIXTURE_LAYERS = {"proj_out_means": "means", "proj_out_logweights": "logweights", "proj_out_logstds": "logstds"}


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def our_names(state: dict[str, Tensor], family: GMFlow | DX) -> dict[str, Tensor]:
    """Published weights by the names of a student's module."""
    renamed = {}
    for name, tensor in state.items():
        layer, _, rest = name.partition(".")
        if layer in MIXTURE_LAYERS:
            name = f"proj_out_2.{MIXTURE_LAYERS[layer]}.{rest}"
        elif layer == "proj_out_2" and isinstance(family, DX):
            name = f"proj_out_2.points.{rest}"
        renamed[name] = tensor
    return to_diffusers(renamed)


def published_module(name: str) -> torch.nn.Module:
    """An uninitialised module of a fixture's config."""
    return build({**parity.load(f"nets/{name}")[1]["config"], FREQ_SHIFT: 0, "out_channels": None})


def published_student(name: str, family: GMFlow | DX, *, timestep_scale: float = 1.0) -> Student:
    """A student with the weights of a fixture in nets/."""
    backbone = DiTBackbone(latent_channels=4, patch_size=2, timestep_scale=timestep_scale)
    student = Student(published_module(name), backbone=backbone, family=family)
    state = our_names(part(parity.load(f"nets/{name}")[0], "state_dict/"), family)
    load_weights(student.module, state, source=name, dtype=torch.float32)
    return student.requires_grad_(False).eval()
