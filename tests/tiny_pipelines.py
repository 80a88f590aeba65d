"""Pipelines of the fixtures' students, calls of them that need no encoder, and made-up style LoRA.

Shapes: B batch, N image tokens, C latent channels, D width.
"""

from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file
from tiny_models import PARITY
from torch import Tensor

from piflow_cli import load_pipeline
from piflow_cli.core.adapter import merged_weights
from piflow_cli.engine.pipelines.student import StudentPipeline
from piflow_cli.engine.students.load import load_student
from piflow_cli.engine.students.save import save_student
from piflow_cli.formats.student import StoredStudent

FAMILIES = ("flux", "qwen")
BASES = {"flux": diffusers.FluxPipeline, "qwen": diffusers.QwenImagePipeline}
KINDS = [(family, kind) for family in FAMILIES for kind in ("gm", "dx")]
Pipes = dict[tuple[str, str], StudentPipeline]
SIZE = {"height": 64, "width": 48}
STYLES = {
    "flux": {
        "beside": ["transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_v"],
        "shared": ["transformer_blocks.0.ff.net.2", "time_text_embed.timestep_embedder.linear_1"],
    },
    "qwen": {
        "beside": ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_v"],
        "shared": ["transformer_blocks.0.img_mlp.net.2", "time_text_embed.timestep_embedder.linear_1"],
    },
}
"""Layers of a style LoRA: beside those of the student's own, and the very same ones."""


def student_folder(family: str, kind: str = "gm") -> Path:
    """A released adapter."""
    return PARITY / f"e2e_{family}" / f"adapter_{kind}{family}"


def base_folder(family: str) -> Path:
    """The base of the released adapters."""
    return PARITY / f"e2e_{family}" / "pipeline"


def pipeline(family: str, kind: str = "gm", **options: Any) -> StudentPipeline:
    """A released adapter on its base."""
    return aligned(load_pipeline(student_folder(family, kind), base=base_folder(family), **options))


def aligned(pipe: StudentPipeline) -> StudentPipeline:
    """The pipeline with its weights in memory of its own: matrix products round by where in a file weights lie."""
    for part in pipe.components.values():
        for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
            parameter.data = parameter.data.clone()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def merged_pipeline(family: str, folder: Path) -> StudentPipeline:
    """The same student with its LoRA merged into the base, so that it holds every weight; stored in an empty folder."""
    stored = folder / f"merged-{family}"
    if not stored.exists():
        student = load_student(str(student_folder(family)), base=str(base_folder(family)))
        card = student.card.model_copy(update={"adapter": None})
        weights = {name: tensor.clone() for name, tensor in merged_weights(student.network.module).items()}
        save_student(StoredStudent(card=card, weights=weights), stored)
    return aligned(load_pipeline(stored, base=base_folder(family)))


def expected(family: str) -> dict[str, Tensor]:
    """What the authors' pipelines gave; in memory of its own, as `aligned` says why."""
    return {name: t.clone() for name, t in load_file(PARITY / f"e2e_{family}" / "expected.safetensors").items()}


def embeddings(family: str) -> dict[str, Tensor]:
    """Arguments that stand for two prompts."""
    tensors = expected(family)
    if family == "flux":
        return {name: tensors[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
    mask = torch.ones(tensors["prompt_embeds"].shape[:2], dtype=torch.long)
    return {"prompt_embeds": tensors["prompt_embeds"], "prompt_embeds_mask": mask}


def latents(pipe: StudentPipeline, family: str, **arguments: Any) -> Tensor:
    """Packed latents (B, N, 4 C) of the fixture's prompts from the fixture's noise."""
    noise = expected(family)["init_latents_packed"]
    call = embeddings(family) | SIZE | {"latents": noise, "output_type": "latent"} | arguments
    return pipe(**call).images


def style(pipe: StudentPipeline, layers: list[str], *, seed: int, rank: int = 2) -> dict[str, Tensor]:
    """A made-up style LoRA, as diffusers stores one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name in layers:
        layer = pipe.transformer.get_submodule(name)
        weights[f"transformer.{name}.lora_A.weight"] = torch.randn(rank, layer.in_features, generator=generator)
        weights[f"transformer.{name}.lora_B.weight"] = torch.randn(layer.out_features, rank, generator=generator)
    return weights
