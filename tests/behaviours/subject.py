"""The pipelines that are tried, students and bases, and the list of what is tried of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel
from tiny_models import gmflow, randomise, stored_student, tiny_vae
from tiny_pipelines import aligned, base_folder, pipeline
from torch import Tensor

from piflow_cli import load_pipeline
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.engine.students.save import save_student

CLOSE = {"rtol": 0, "atol": 1e-3}

CPU = torch.device("cpu")

TEXT, FLUX = ("flux", "qwen"), ("flux",)


@dataclass(frozen=True)
class Subject:
    """A pipeline to try: of a family (flux, qwen, dit), the student or the base."""

    family: str
    student: bool
    folder: Path

    def make(self) -> Any:
        """A fresh one."""
        if self.family in TEXT:
            if self.student:
                return pipeline(self.family)
            kind = diffusers.FluxPipeline if self.family == "flux" else diffusers.QwenImagePipeline
            return aligned(kind.from_pretrained(base_folder(self.family)))
        if self.student:
            place = self.folder / "student"
            if not place.exists():
                sampling = SamplingSettings(nfe=2, total_substeps=16)
                save_student(stored_student(gmflow(), sampling=sampling), place, vae=tiny_vae())
            return aligned(load_pipeline(place))
        return aligned(DiTPipeline(tiny_dit(), tiny_vae(), diffusers.DDIMScheduler()))

    def call(self, pipe: Any, **changes: Any) -> Tensor:
        """Pictures (B, 3, H, W), or whatever else is asked for."""
        call: dict[str, Any] = {"generator": seed(0), "output_type": "pt", "num_inference_steps": 2}
        if self.family == "dit":
            call |= {"class_labels": [1], "num_inference_steps": 2} | ({} if self.student else {"output_type": "np"})
        else:
            call |= {"prompt": "a red cat", "height": 64, "width": 48, "max_sequence_length": 12}
        images = pipe(**(call | changes))[0]
        if self.family == "dit" and not self.student and isinstance(images, np.ndarray):
            return torch.as_tensor(images).permute(0, 3, 1, 2)
        return images

    def several(self, *texts: str) -> dict[str, Any]:
        """The arguments that ask for several pictures."""
        return {"class_labels": [len(text) % 10 for text in texts]} if self.family == "dit" else {"prompt": list(texts)}

    def attention(self) -> str:
        return "joint_attention_kwargs" if self.family == "flux" else "attention_kwargs"


def tiny_dit() -> DiTTransformer2DModel:
    """A transformer for DiTPipeline, which wants a thousand classes."""
    model = DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        num_embeds_ada_norm=1000,
    )
    return randomise(model, seed=0).eval()


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def same(found: Any, wanted: Any, **tolerance: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted), **(tolerance or CLOSE))


def parts_of(pipe: Any) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


Behaviour = Callable[[Subject], None]

BEHAVIOURS: dict[str, tuple[Behaviour, tuple[str, ...]]] = {}
"""Function and families by name."""


def behaviour(*families: str) -> Callable[[Behaviour], Behaviour]:
    def note(function: Behaviour) -> Behaviour:
        BEHAVIOURS[function.__name__] = function, families or (*TEXT, "dit")
        return function

    return note


def given_embeds(it: Subject, pipe: Any) -> dict[str, Tensor]:
    first, second, *_ = pipe.encode_prompt(
        prompt="a red cat", device=CPU, num_images_per_prompt=1, max_sequence_length=12, **encode_more(it)
    )
    name = "pooled_prompt_embeds" if it.family == "flux" else "prompt_embeds_mask"
    return {"prompt_embeds": first} | ({} if second is None else {name: second})


def encode_more(it: Subject) -> dict[str, None]:
    return {"prompt_2": None} if it.family == "flux" else {}
