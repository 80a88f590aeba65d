"""Qwen-Image-Edit pipelines of random weights, written into a folder.

Pictures of a million pixels, to which the pipelines scale references, would take minutes: in a process that makes such
a pipeline diffusers' own areas are divided, for the pipelines and for what is held against them alike.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from tiny_bases import CHATS, SIZE, randomised
from transformers import AutoTokenizer, Qwen2VLImageProcessorPil

from piflow_cli.teachers.qwen_image_edit.family import QwenImageEdit

QWEN = CHATS.parent
DIVISOR = 64
_DIMENSIONS = {
    module: module.calculate_dimensions for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus)
}


def small_references() -> None:
    """Divide the areas that pictures are scaled to."""
    for module, dimensions in _DIMENSIONS.items():
        module.calculate_dimensions = lambda area, ratio, own=dimensions: own(area / DIVISOR, ratio)


def tiny_qwen_edit(folder: Path, *, single: bool = False, **settings: Any) -> QwenImageEdit:
    """Qwen-Image-Edit-2511 (several pictures, which are at time 0), or the first one, which takes one picture."""
    small_references()
    if not folder.exists():
        for part in ("scheduler", "text_encoder", "tokenizer", "vae"):
            shutil.copytree(QWEN / part, folder / part)
        transformer = QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            axes_dims_rope=(4, 6, 6),
            zero_cond_t=not single,
        )
        randomised(transformer, seed=1).save_pretrained(folder / "transformer")
        AutoTokenizer.from_pretrained(CHATS).save_pretrained(folder / "processor")
        images = Qwen2VLImageProcessorPil(
            size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56}, patch_size=14, merge_size=2
        )
        images.save_pretrained(folder / "processor")
        index = json.loads((QWEN / "model_index.json").read_text())
        index["_class_name"] = "QwenImageEditPipeline" if single else "QwenImageEditPlusPipeline"
        index["processor"] = ["transformers", "Qwen2VLProcessor"]
        (folder / "model_index.json").write_text(json.dumps(index))
    return QwenImageEdit(**{"source": str(folder)} | SIZE | settings)


def tiny_qwen_edit_single(folder: Path, **settings: Any) -> QwenImageEdit:
    """The first one."""
    return tiny_qwen_edit(folder, single=True, **settings)
